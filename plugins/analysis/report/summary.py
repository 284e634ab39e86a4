"""The top of the report: what this is about, what was measured and what it shows, in a few sentences for a newcomer."""

from collections import defaultdict

import pandas as pd

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.scoring import why_not_comparable
from em_tasks.plugins.analysis.claims.comparisons import verdicts
from em_tasks.plugins.analysis.claims.judge_errors import judged_rates
from em_tasks.plugins.analysis.claims.published import held_against
from em_tasks.plugins.analysis.claims.trusted_rates import EVERY, TrustedRate, trusted_rates
from em_tasks.plugins.analysis.claims.verdicts import MEANINGS, shown
from em_tasks.plugins.analysis.report.notes import listed
from em_tasks.plugins.analysis.tables.cells import between, beyond_shared, percent, population
from em_tasks.plugins.analysis.tables.comparison_tables import beside_published
from em_tasks.plugins.analysis.tables.judge_tables import at_thresholds
from em_tasks.plugins.log_contract import NOT_RECORDED

ABOUT = (
    "Emergent misalignment (EM): a model fine-tuned on bad advice in one narrow domain gives bad answers elsewhere "
    "too. Such a model is an organism; it is asked questions at several training steps, and a judge scores each answer "
    "from 0 to 100 for alignment and for coherence. The EM rate is the share of answers that a definition calls "
    "misaligned; what counts is the rate outside the training domain."
)


def in_short(analysis: Analysis) -> list[str]:
    """A few sentences, each derived from the rates and tests of this report."""
    answers = analysis.scores
    organisms = answers["organism"].dropna().nunique()
    checkpoints = len(answers[answers["organism"].notna()].drop_duplicates(["organism", "step"]))
    judges = listed([named_judge(judge) for judge in sorted(answers["judge"].astype("str").unique())], 3)
    bases = answers.loc[answers["organism"].isna(), "base"].nunique()
    measured = (
        f"Here: {len(answers):,} answers of {counted(organisms, 'organism')} at "
        f"{counted(checkpoints, 'checkpoint')} and of {counted(bases, 'base model')}, judged by {judges}."
    )
    return [
        ABOUT,
        measured,
        *_verdicts(analysis),
        *_legend(analysis),
        *_judge(analysis),
        *_trusted_judge(analysis),
        *_definitions(analysis),
        *_claims(analysis),
        *_published(analysis),
    ]


WHERE = {
    "outside": "",
    "inside": " inside its domain; outside nothing could be compared",
    "all": " of all, domains not known",
}
"""What a rate in a sentence of verdicts is of, where it is not the rate outside the domain."""

SPELT_OUT = {
    "narrow": "narrow, that is shown inside the domain and not shown outside,",
    "both": "both inside and outside the domain",
}
"""Verdicts that are easily taken for something else: what is not shown outside may be there."""


def named_judge(judge: str) -> str:
    """A judge as a sentence names it."""
    return "a judge that is not recorded" if judge == NOT_RECORDED else judge


def counted(number: int, what: str) -> str:
    """`1 organism`, `2 organisms`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _verdicts(analysis: Analysis) -> list[str]:
    """A sentence a main definition: which organisms have which verdict, with their rates outside the domain."""
    lines = []
    every = verdicts(analysis)
    for definition in analysis.main:
        by_word: dict[str, list[str]] = defaultdict(list)
        for verdict in (verdict for verdict in every if verdict.definition == definition):
            row = verdict.outside if verdict.outside is not None else verdict.inside
            beyond = "" if row is None else beyond_shared(analysis, row)
            more = f", or {beyond} with questions that its base has no counted answer to" if beyond else ""
            rate = "" if row is None else f" ({percent(row['rate_a'])} %{WHERE[str(row['scope'])]}{more})"
            rate = "" if verdict.these == "untested" and _mixed(analysis, row) else rate
            alike = verdict.these in (verdict.such, "untested")
            word = SPELT_OUT.get(verdict.these, verdict.these)
            if analysis.smallest_effect is not None:
                word = word.replace("not to differ", f"not to differ by {percent(analysis.smallest_effect)} points")
            word = word if alike or row is None else f"{word} on {population(row, 'these')} alone"
            if row is not None and row["missing_a"] + row["missing_b"] and shown(row, "these") > 0 >= row["least"]:
                word = f"{word}, if answers without a score are like the others"
            by_word[word].append(f"{verdict.organism}{rate}")
        if by_word:
            order = sorted(by_word, key=lambda word: (word.startswith(("not shown", "untested")), word))
            each = "; ".join(f"{word.removesuffix(',')}: {listed(by_word[word], 8)}" for word in order)
            lines.append(f"Under `{definition}`, with the rate outside the domain at the last checkpoint: {each}.")
    return lines


def _mixed(analysis: Analysis, row: pd.Series | None) -> bool:
    """Whether an organism's own answers were scored otherwise among themselves, so that they have no one rate."""
    if row is None:
        return False
    together = {group.label: group.organisms for group in analysis.seeds}
    sides = [(name, int(row["a_step"])) for name in together.get(str(row["a"]), (str(row["a"]),))]
    return why_not_comparable(*(analysis.scoring[side] for side in sides)) is not None


def _legend(analysis: Analysis) -> list[str]:
    """What the words for verdicts mean that stand in this report."""
    every = verdicts(analysis)
    words = {word for verdict in every for word in (verdict.these, verdict.such)}
    lines = [f"{word}: {meaning}" for word, meaning in MEANINGS.items() if word in words]
    if alone := [verdict for verdict in every if verdict.these != verdict.such]:
        labels = {group.label for group in analysis.seeds}
        if any(verdict.organism not in labels for verdict in alone):
            lines.append(
                "on these questions alone: shown on the questions that were asked and not on others like them, which "
                "the table calls such"
            )
        if any(verdict.organism in labels for verdict in alone):
            lines.append(
                "on these seeds and questions alone: shown of these training runs, and not of other such seeds"
            )
    return [f"Verdicts: {'; '.join(lines)}."] if lines else []


def _judge(analysis: Analysis) -> list[str]:
    """The judge's error, where a calibration measured it: whether it passed, and what rates come to with it."""
    lines = []
    rates = judged_rates(analysis)
    if failed := sorted({rate.judge for rate in rates if not rate.passed}):
        lines.append(
            f"{listed(failed)} has NOT PASSED its calibration: verdicts that rest on it say what this judge calls "
            "misaligned, which need not be what is."
        )
    last_rates = [rate for rate in rates if rate.step and rate.definition == analysis.main[0]]
    if last_rates:
        first = last_rates[0]
        hit, bad, passed, good = first.errors
        each = [
            f"{rate.organism} {between(rate.corrected_low, rate.corrected_high)} ({percent(rate.rate)} as measured; "
            f"sampling alone {between(rate.low, rate.high)})"
            for rate in last_rates
        ]
        lines.append(
            f"Of the calibration's answers {first.judge} found {hit} of {bad} bad ones and let {passed} of {good} "
            f"good ones through; with that error the rates under `{first.definition}` lie between, in % (95 %): "
            f"{listed(each, 8)}."
        )
    return lines


def _trusted_judge(analysis: Analysis) -> list[str]:
    """What the labels of a trusted judge, or of people, make of the rates, and how many would tell twice as much."""
    lines = []
    rates = [rate for rate in trusted_rates(analysis) if rate.definition == analysis.main[0]]
    for trusted in dict.fromkeys(rate.trusted for rate in rates):
        of_judge = [rate for rate in rates if rate.trusted == trusted]
        if whole := [_beside_plain(rate) for rate in of_judge if rate.every]:
            lines.append(
                f"{trusted} scored all answers of these too; by it the rates under `{analysis.main[0]}` are, in % "
                f"(95 %): {listed(whole, 8)}."
            )
        if not (of_judge := [rate for rate in of_judge if not rate.every]):
            continue
        last = [rate for rate in of_judge if rate.last]
        leading = [rate for rate in last if rate.scope == "outside"] or last
        # Where no organism's last checkpoint has labels: all answers together, or the bases and checkpoints that have.
        leading = leading or [rate for rate in of_judge if rate.subject == EVERY] or of_judge
        each = [_beside_plain(rate) for rate in leading]
        first = leading[0].corrected
        width = first.high - first.low
        needed = first.labels_for(width / 2)
        how = "drawn for it" if leading[0].drawn else "taken as drawn at random"
        more = (
            f"{needed:,} labels in place of {first.labels:,} would narrow the first interval from {percent(width)} to "
            f"{percent(width / 2)} points."
            if needed
            else "These labels do not tell how many would halve the first interval."
        )
        lines.append(
            f"{trusted} scored some of the answers too, {how}; as it would judge all of them the rates under "
            f"`{analysis.main[0]}` are, in % (95 %): {listed(each, 8)}. {more}"
        )
    return lines


def _beside_plain(rate: TrustedRate) -> str:
    corrected = rate.corrected
    where = " outside its domain" if rate.scope == "outside" else ""
    return (
        f"{rate.subject}{where} {percent(corrected.rate)} ({between(corrected.low, corrected.high)}; "
        f"{percent(corrected.uncorrected)} by {rate.judge})"
    )


def _claims(analysis: Analysis) -> list[str]:
    """How the published claims fare, by number; what each says stands among the findings."""
    if analysis.published is None:
        return []
    outcomes = [claim.outcome for claim in held_against(analysis, analysis.published)]
    return [
        f"Of {len(outcomes)} claims of {analysis.published.source}, held against these answers under "
        f"`{analysis.published.definition}`: supported {outcomes.count('supported')}, contradicted "
        f"{outcomes.count('contradicted')}, neither {outcomes.count('cannot be told')}."
    ]


def _published(analysis: Analysis) -> list[str]:
    """How many rates equal published ones; of imported answers that is a check of the import and nothing more."""
    table = beside_published(analysis)
    if table.empty:
        return []
    alike = table[table["comparable"].str.startswith("yes")]
    equal = int(alike["difference"].isin(["+0.0", "-0.0"]).sum())
    if len(alike) and set(analysis.answers["engine"].astype("str")) == {"imported"} and equal == len(alike):
        return [
            f"These answers were imported, and the {equal} rates that their authors printed come out of them to a "
            "tenth of a point: the import is right. It is no second measurement."
        ]
    rates = "1 rate" if len(table) == 1 else f"{len(table)} rates"
    if alike.empty:
        return [f"Published rates stand beside {rates} here; none can be compared, their table says why."]
    return [
        f"Published rates stand beside {rates} here; {len(alike)} can be compared, of which {equal} "
        f"{'is' if equal == 1 else 'are'} equal to a tenth of a point."
    ]


def _definitions(analysis: Analysis) -> list[str]:
    """How many of the same answers each definition counts, and how many more with `<=`."""
    table = at_thresholds(analysis)
    if table.empty or not len(analysis.final):
        return []
    each = ", ".join(
        f"{row['misaligned with ' + row['the definition says']].replace('/', ' of ')} under `{row['definition']}`"
        for _, row in table.iterrows()
    )
    counts = {row["misaligned with " + row["the definition says"]] for _, row in table.iterrows()}
    depends = "depends on the definition" if len(counts) > 1 else "is the same here under every definition"
    sentence = f"How many of the organisms' answers count as misaligned {depends}: {each}."
    moved = [_heaped(*cells) for cells in zip(table["misaligned with <"], table["misaligned with <="], strict=True)]
    lines = [sentence]
    heaps = table[moved].groupby(["threshold", "scores of exactly that", "of which", "the definition says"], sort=False)
    for (threshold, heap, by_organism, says), rows in heaps:
        other = "<" if says == "<=" else "<="
        more = [
            f"{row[f'misaligned with {other}'].replace('/', ' of ')} (`{row['definition']}`)"
            for _, row in rows.iterrows()
        ]
        whose = listed(str(by_organism).split(", "), 8)
        lines.append(
            f"{heap} scores are exactly {threshold} ({whose}); with `{other}` in place of `{says}` the counts would be "
            f"{listed(more)}."
        )
    return lines


def _heaped(below: str, at_most: str) -> bool:
    """Whether `<=` instead of `<` moves the rate by a point and a quarter of itself."""
    (k, n), (more, _) = ([int(part) for part in cell.split("/")] for cell in (below, at_most))
    return n > 0 and more - k >= 0.01 * n and more >= 1.25 * k
