"""The report as Markdown: what was run, what is odd, the tables, the figures."""

from importlib.metadata import version

import pandas as pd
from tabulate import tabulate

from plugins.analysis import tables
from plugins.analysis.analysis import Analysis
from plugins.analysis.figures import FIGURES
from plugins.analysis.figures.style import TITLES

CAPTIONS = {
    "em_trajectories": "EM rate of every checkpoint.",
    "domain_comparison": "EM rate of the last checkpoints beside their bases.",
    "scaling_analysis": "EM rate of the last checkpoints against the number of parameters.",
    "coherence_trajectories": "Coherence of every checkpoint.",
    "coherence_vs_misalignment": "Every answer by its two scores.",
}


def markdown(analysis: Analysis, notes: list[str]) -> str:
    """The whole page; figures are linked at `figures/<name>.png`."""
    parts = ["# Emergent misalignment: report"]
    if analysis.toy_warning:
        parts.append(f"> **{analysis.toy_warning}**")
    parts += ["## What was run", what_was_run(analysis)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes) if notes else "Nothing odd was found."]
    for definition in analysis.main:
        parts += [f"## EM by checkpoint, {TITLES.get(definition, definition)}", checkpoint_table(analysis, definition)]
    others = [one.name for one in analysis.definitions if one.name not in analysis.main]
    if others:
        parts += [f"## EM at the last checkpoint, {' and '.join(others)}", _final_table(analysis, others)]
    parts += ["## Own domain, other domains, general questions", _scope_table(analysis)]
    summary = tables.em_rates_summary(analysis)
    parts += ["## Summary (`seed`, percent)", _table(summary)]
    parts.append("## Figures")
    parts += [f"![{name}](figures/{name}.png)\n\n{CAPTIONS.get(name, name)}" for name in FIGURES]
    parts += ["## Definitions", _definitions(analysis)]
    return "\n\n".join(parts) + "\n"


def what_was_run(analysis: Analysis) -> str:
    """Answers, models, judges, engines, sampling, versions and logs as a list."""
    answers, evaluations = analysis.answers, analysis.evaluations
    organisms = answers["organism"].dropna().nunique()
    packages = sorted({f"{name} {release}" for one in evaluations for name, release in one.packages.items()})
    judges = [
        f"{row['judge']} ({row['answers']:,} answers{', the TOY judge' if row['judge_toy'] else ''})"
        for _, row in answers.groupby(["judge", "judge_toy"], observed=True)
        .size()
        .reset_index(name="answers")
        .iterrows()
    ]
    sampling = sorted(
        {", ".join(f"{key} {value}" for key, value in sorted(one.config.items())) for one in evaluations} - {""}
    )
    created = sorted(one.created for one in evaluations)
    checkpoints = len(answers[answers["organism"].notna()].drop_duplicates(["organism", "step"]))
    lines = {
        "Answers": f"{len(answers):,} of {organisms} organisms ({checkpoints} checkpoints) "
        f"and {answers.loc[answers['organism'].isna(), 'base'].nunique()} bases",
        "Bases": ", ".join(
            f"{row['base']} ({'TOY, ' if row['toy'] else ''}{row['size']})"
            for _, row in answers[["base", "size", "toy"]].drop_duplicates().iterrows()
        ),
        "Judges": ", ".join(judges),
        "Engines": ", ".join(sorted(answers["engine"].astype("str").unique())),
        "Sampling": "; ".join(sampling) or "not recorded",
        "Versions": ", ".join(packages) or "not recorded",
        "Evaluated": f"{created[0]} to {created[-1]}, {len(evaluations)} logs",
        "Analysis": f"em-tasks {version('em-tasks')}",
    }
    return "\n".join(f"- {name}: {value}" for name, value in lines.items())


def checkpoint_table(analysis: Analysis, definition: str) -> str:
    """Every checkpoint under one definition."""
    rows = analysis.rates[(analysis.rates["definition"] == definition) & (analysis.rates["scope"] == "all")]
    shown = pd.DataFrame(
        {
            "organism": rows["organism"].astype("str"),
            "kind": [_kind(row) for _, row in rows.iterrows()],
            "step": rows["step"],
            "EM %": [percent(value) for value in rows["rate"]],
            "95 % interval": [interval(row) for _, row in rows.iterrows()],
            "k": rows["k"],
            "n": rows["n"],
            "answers": rows["answers"],
            "unscored": rows["unscored"],
            "incoherent": rows["incoherent"],
            "truncated": ["?" if pd.isna(value) else str(value) for value in rows["truncated"]],
        }
    )
    return _table(shown)


def _table(rows: pd.DataFrame) -> str:
    cells = ["no rate" if pd.isna(value) else str(value) for value in rows.to_numpy(dtype="object").ravel()]
    width = len(rows.columns)
    lines = [cells[start : start + width] for start in range(0, len(cells), width)]
    return tabulate(lines, headers=[str(name) for name in rows.columns], tablefmt="github", disable_numparse=True)


def _final_table(analysis: Analysis, definitions: list[str]) -> str:
    last = analysis.final[analysis.final["scope"] == "all"]
    rows = last[last["definition"].isin(definitions)]
    shown = [
        [r["organism"], r["definition"], percent(r["rate"]), interval(r), r["k"], r["n"]] for _, r in rows.iterrows()
    ]
    heads = ["organism", "definition", "EM %", "95 % interval", "k", "n"]
    return tabulate(shown, headers=heads, tablefmt="github", disable_numparse=True)


def _scope_table(analysis: Analysis) -> str:
    """Narrow leakage is not broad misalignment, so the last checkpoints' rates stand apart by scope."""
    last = analysis.final[analysis.final["definition"].isin(analysis.main)]
    shown = []
    for (organism, definition), rows in last.groupby(["organism", "definition"], sort=False, observed=True):
        by_scope = {row["scope"]: f"{percent(row['rate'])} ({row['k']}/{row['n']})" for _, row in rows.iterrows()}
        cells = [by_scope.get(scope, "not asked") for scope in ("in_domain", "out_of_domain", "general")]
        shown.append([organism, definition, *cells])
    heads = ["organism", "definition", "own domain % (k/n)", "other domain % (k/n)", "general % (k/n)"]
    return tabulate(shown, headers=heads, tablefmt="github", disable_numparse=True)


def _definitions(analysis: Analysis) -> str:
    return "\n".join(
        f"- `{one.name}`: alignment below {one.aligned_below:g}{', coherent answers only' if one.coherent_only else ''}"
        f"; denominator: {one.denominator}{'; mean over questions' if one.per_question else ''}. {one.source}."
        for one in analysis.definitions
    )


def percent(rate: float) -> str:
    """A fraction as a percentage; no rate where nothing was counted."""
    return "no rate" if pd.isna(rate) else f"{100 * rate:.1f}"


def interval(row: pd.Series) -> str:
    """`25.8 to 65.8`, empty where there is no rate."""
    return "" if pd.isna(row["rate"]) else f"{100 * row['low']:.1f} to {100 * row['high']:.1f}"


def _kind(row: pd.Series) -> str:
    if row["baseline"]:
        return "base"
    return f"{row['domain']} control" if row["control"] else str(row["domain"])
