"""The report as Markdown: what was run, what the data shows, what is odd, the tables, the figures."""

from dataclasses import dataclass
from importlib.metadata import version
from urllib.parse import quote

import pandas as pd
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.report.findings import HEADINGS, HOW, Finding
from em_tasks.plugins.analysis.report.summary import counted, in_short, named_judge
from em_tasks.plugins.analysis.tables.markup import markdown_cell, markdown_text
from em_tasks.plugins.analysis.tables.writing import in_markdown, with_legend
from em_tasks.plugins.log_contract import NO_DATE
from em_tasks.plugins.safe_names import file_name
from em_tasks.scorers.definitions import COHERENT_ABOVE

LEAD = ("verdicts", "final_by_domain_and_size")
"""Tables that stand before the figures; the others follow."""


@dataclass(frozen=True)
class Contents:
    """What a report shows, computed once for all its forms.

    Attributes:
        notes: What was odd, a sentence each.
        findings: Sentences that follow from tests.
        tables: Title and rows by file name.
        figures: By file name.
        examples: Answers to chosen questions, as figures by file name.
    """

    notes: list[str]
    findings: list[Finding]
    tables: dict[str, tuple[str, pd.DataFrame]]
    figures: dict[str, Figure]
    examples: dict[str, Figure]


def markdown(analysis: Analysis, contents: Contents) -> str:
    """The whole page; figures are linked at `figures/<name>.png`."""
    parts = ["# Emergent misalignment: report"]
    if analysis.toy_warning:
        parts.append(f"> **{analysis.toy_warning}**")
    if analysis.study is not None:
        parts.append(markdown_text(analysis.study.line))
    parts += ["## In short", _list(in_short(analysis))]
    parts += ["## What the rates mean", _list(definition_lines(analysis))]
    parts += ["## What was run", _list(what_was_run(analysis))]
    parts += ["## Notes", _list(contents.notes) if contents.notes else "Nothing odd was found."]
    shown = {name: contents.tables[name] for name in LEAD}
    parts += ["## Results", *(_table(title, rows) for title, rows in shown.values())]
    parts += ["## Findings", HOW]
    for verdict, heading in HEADINGS.items():
        sentences = [finding.sentence for finding in contents.findings if finding.verdict == verdict]
        if sentences:
            parts += [f"### {heading}", _list(sentences)]
    parts.append("## Figures")
    parts += [
        f"![{markdown_cell(name.replace('_', ' '))}](figures/{quote(file_name(name))}.png)"
        for name in (*contents.figures, *contents.examples)
    ]
    parts.append("## Tables")
    parts += [_table(title, rows) for name, (title, rows) in contents.tables.items() if name not in LEAD]
    return "\n\n".join(parts) + "\n"


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _table(title: str, rows: pd.DataFrame) -> str:
    return f"### {markdown_text(with_legend(title, rows))}\n\n{in_markdown(rows) if len(rows) else 'Nothing to show.'}"


def what_was_run(analysis: Analysis) -> list[str]:
    """Answers, models, judges, engines, sampling, versions and logs, a line each."""
    answers, evaluations = analysis.scores, analysis.evaluations
    organisms = answers["organism"].dropna().nunique()
    releases = {item for evaluation in evaluations for item in evaluation.packages.items()}
    packages = sorted(f"{name} {release}" for name, release in releases)
    judges = [
        f"{row['judge']} ({row['answers']:,} answers{', the TOY judge' if row['judge_toy'] else ''})"
        for _, row in answers.groupby(["judge", "judge_toy"], observed=True)
        .size()
        .reset_index(name="answers")
        .iterrows()
    ]
    again = analysis.reading.rejudged["judge"].astype("str").value_counts(sort=False).sort_index()
    judges += [f"{judge} ({count:,} of the same answers)" for judge, count in again.items()]
    configs = [sorted(evaluation.config.items()) for evaluation in evaluations]
    sampling = sorted({", ".join(f"{key} {value}" for key, value in config) for config in configs} - {""})
    created = sorted(evaluation.created for evaluation in evaluations if evaluation.created != NO_DATE)
    days = list(dict.fromkeys(time[:10] for time in created))
    dated = " to ".join([days[0], *days[1:][-1:]]) if days else "dates not recorded"
    checkpoints = len(answers[answers["organism"].notna()].drop_duplicates(["organism", "step"]))
    lines = {
        "Answers": f"{len(answers):,} of {counted(organisms, 'organism')} ({counted(checkpoints, 'checkpoint')}) "
        f"and {counted(answers.loc[answers['organism'].isna(), 'base'].nunique(), 'base')}",
        "Bases": ", ".join(
            f"{row['base']} ({'TOY, ' if row['toy'] else ''}{row['size']})"
            for _, row in answers[["base", "size", "toy"]].drop_duplicates().iterrows()
        ),
        "Judges": ", ".join(judges),
        "Calibration": "; ".join(calibration_lines(analysis)),
        "Engines": ", ".join(sorted(answers["engine"].astype("str").unique())),
        "Sampling": "; ".join(sampling) or "not recorded",
        "Versions": ", ".join(packages) or "not recorded",
        "Recipes": _hashes(analysis, "recipe_sha256"),
        "Base fingerprints": _hashes(analysis, "base_fingerprint"),
        "Questions": _hashes(analysis, "questions_sha256"),
        "Evaluated": f"{dated}, {len(evaluations)} log{'s' * (len(evaluations) != 1)}",
        "Analysis": f"em-tasks {version('em-tasks')}",
    }
    return [f"{name}: {value}" for name, value in lines.items()]


def calibration_lines(analysis: Analysis) -> list[str]:
    """How far each judge can be trusted, or that nobody measured it."""
    pairs = sorted({pair for evaluation in analysis.evaluations for pair in evaluation.judge_rubrics})
    lines = []
    for judge in dict.fromkeys(judge for judge, _ in pairs):
        known = {analysis.calibration(judge, sha256) for other, sha256 in pairs if other == judge}
        if None in known:
            lines.append(
                f"{named_judge(judge)} is UNCALIBRATED under the prompts it was asked (`em calibrate` measures it)"
            )
        lines += sorted(line for line in known if line is not None)
    return lines or ["no judge is recorded"]


def _hashes(analysis: Analysis, key: str) -> str:
    """The first twelve digits of every different hash under a key."""
    fingerprints = {evaluation.fingerprints.get(key) for evaluation in analysis.evaluations}
    return ", ".join(sorted(sha256[:12] for sha256 in fingerprints if sha256)) or "not recorded"


COUNTED = {
    "aligned": "the answers that have an alignment score",
    "coherent": f"the coherent answers (coherence above {COHERENT_ABOVE:g}) that have an alignment score",
    "both": "the answers that have both scores",
    "all": "all sampled answers",
}
"""The denominators in words."""


def definition_lines(analysis: Analysis) -> list[str]:
    """What each definition counts, in plain words, and who uses it; those that lead the tables first."""
    return [
        f"`{definition.name}`: of {COUNTED[definition.denominator]}, the share whose alignment is "
        f"{'at most' if definition.inclusive else 'below'} {definition.aligned_below:g}"
        f"{' and that are coherent' if definition.coherent_only and definition.denominator != 'coherent' else ''}"
        f"{', averaged over the questions' if definition.per_question else ''}. Used by: {definition.source}."
        for definition in analysis.definitions
    ]
