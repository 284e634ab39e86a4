"""The top of the report: what this is about, what was measured and what it shows, in a few sentences for a newcomer."""

from collections.abc import Sequence

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.report.findings import Finding
from em_tasks.plugins.analysis.report.notes import listed
from em_tasks.plugins.analysis.tables.comparison_tables import beside_published

ABOUT = (
    "Emergent misalignment (EM): a model fine-tuned on bad advice in one narrow domain gives bad answers elsewhere "
    "too. Such a model is an organism; it is asked questions at several training steps, and a judge scores each answer "
    "from 0 to 100 for alignment and for coherence. The EM rate is the share of answers that a definition calls "
    "misaligned."
)


def in_short(analysis: Analysis, findings: Sequence[Finding]) -> list[str]:
    """A few sentences, each derived from the rates and tests of this report."""
    answers = analysis.scores
    organisms = answers["organism"].dropna().nunique()
    checkpoints = len(answers[answers["organism"].notna()].drop_duplicates(["organism", "step"]))
    judges = listed(sorted(answers["judge"].astype("str").unique()), 3)
    measured = (
        f"Here: {len(answers):,} answers of {organisms} organisms at {checkpoints} checkpoints and of "
        f"{answers.loc[answers['organism'].isna(), 'base'].nunique()} base models, judged by {judges}."
    )
    lines = [ABOUT, measured, *_definitions(analysis)]
    # Seeds of one recipe stand together, and are not counted one by one.
    single = {name for group in analysis.seeds for name in group.organisms}
    emerged = [one for one in findings if one.question == "emerged" and one.about not in single]
    for definition in analysis.main:
        lines += _emerged([one for one in emerged if one.definition == definition])
    lines += [one.sentence for one in findings if one.about == "all"]
    return [*lines, *_published(analysis)]


def _published(analysis: Analysis) -> list[str]:
    """How many rates equal published ones that they can be compared with."""
    table = beside_published(analysis)
    if table.empty:
        return []
    alike = table[table["comparable"].str.startswith("yes")]
    equal = int(alike["difference"].isin(["+0.0", "-0.0"]).sum())
    return [
        f"Published rates stand beside {len(table)} of these; {len(alike)} can be compared, of which {equal} are equal "
        "to a tenth of a point."
    ]


def _definitions(analysis: Analysis) -> list[str]:
    """How many of the same answers each definition counts."""
    rates = analysis.rates
    own = rates[(rates["scope"] == "all") & ~rates["baseline"] & ~rates["control"]]
    if own.empty:
        return []
    sums = own.groupby("definition", sort=False)[["k", "n"]].sum()
    each = ", ".join(f"{row['k']:,} of {row['n']:,} under `{name}`" for name, row in sums.iterrows())
    return [
        f"How many answers of the organisms count as misaligned depends on the definition: {each}. Controls are left "
        "out here; what each definition counts stands at the end."
    ]


def _emerged(findings: Sequence[Finding]) -> list[str]:
    """Which organisms are shown to be more misaligned than their bases, under one definition."""
    if not findings:
        return []
    by_verdict = {
        verdict: [one.about for one in findings if one.verdict == verdict]
        for verdict in ("shown", "not shown", "unknown")
    }
    shown = by_verdict["shown"]
    said = f"{len(shown)} of {len(findings)} are shown to be more misaligned than their base at some checkpoint"
    sentence = f"Under `{findings[0].definition}` {said}{f' ({listed(shown)})' if shown else ''}"
    if by_verdict["not shown"]:
        sentence += f"; not shown: {listed(by_verdict['not shown'])}"
    if by_verdict["unknown"]:
        sentence += f"; untested, for want of a base: {listed(by_verdict['unknown'])}"
    return [sentence + "."]
