"""Tables to publish: each a function of the analysis giving a frame of ready cells, as CSV, Markdown, LaTeX.

`tables.py` has the machine-readable files with the seed experiment's columns; these here are for people.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tabulate import tabulate

from plugins.analysis.analysis import Analysis
from plugins.analysis.comparisons import comparisons
from plugins.analysis.figures.trajectory import coherence_rates
from plugins.analysis.findings import p_text
from plugins.analysis.intervals import cluster_interval, seed_interval
from plugins.analysis.published import published_for
from plugins.analysis.rates import question_counts


@dataclass(frozen=True)
class Table:
    """A table to publish.

    Attributes:
        title: One line above it.
        build: Makes it; every cell is text or a whole number. An empty frame means that there is nothing to show.
    """

    title: str
    build: Callable[[Analysis], pd.DataFrame]


def percent(rate: float) -> str:
    """A fraction as a percentage; said in words where nothing was counted."""
    return "no rate" if pd.isna(rate) else f"{100 * rate:.1f}"


def between(low: float, high: float) -> str:
    """`25.8 to 65.8`, of fractions; empty where there is no interval."""
    return "" if pd.isna(low) or pd.isna(high) else f"{100 * low:.1f} to {100 * high:.1f}"


def points(difference: float) -> str:
    """A signed difference of two rates in percentage points."""
    return "" if pd.isna(difference) else f"{100 * difference:+.1f}"


def kind(row: pd.Series) -> str:
    """`base`, the domain, or the domain and `control`."""
    if row["baseline"]:
        return "base"
    return f"{row['domain']} control" if row["control"] else str(row["domain"])


def by_checkpoint(analysis: Analysis) -> pd.DataFrame:
    """Every checkpoint under the main definitions, with intervals for fixed questions and for questions as a sample."""
    parts = []
    for name in analysis.main:
        definition = next(one for one in analysis.definitions if one.name == name)
        counts = question_counts(analysis.trajectories, ["organism", "step"], definition)
        over = {
            (str(rows["organism"].iloc[0]), int(rows["step"].iloc[0])): cluster_interval(
                rows["k"].to_numpy("float64"), rows["n"].to_numpy("float64"), definition.per_question
            )
            for _, rows in counts.groupby(["organism", "step"], observed=True)
        }
        rates = analysis.rates[(analysis.rates["definition"] == name) & (analysis.rates["scope"] == "all")]
        for _, row in rates.iterrows():
            low, high = over.get((str(row["organism"]), int(row["step"])), (np.nan, np.nan))
            parts.append(
                {
                    "definition": name,
                    "organism": row["organism"],
                    "kind": kind(row),
                    "step": row["step"],
                    "EM %": percent(row["rate"]),
                    "fixed questions": between(row["low"], row["high"]),
                    "sampled questions": between(low, high),
                    "k": row["k"],
                    "n": row["n"],
                    "unscored": row["unscored"],
                    "incoherent": row["incoherent"],
                    "truncated": "?" if pd.isna(row["truncated"]) else int(row["truncated"]),
                }
            )
    return pd.DataFrame(parts)


def final_by_domain_and_size(analysis: Analysis) -> pd.DataFrame:
    """Rates of the last checkpoints, a row a size, a column a domain, their difference and average."""
    last = analysis.final[(analysis.final["scope"] == "all") & ~analysis.final["control"]]
    rows = []
    domains = sorted(last["domain"].astype("str").unique())
    for name in analysis.main:
        own = last[last["definition"] == name]
        for size, of_size in own.groupby(own["size"].astype("str"), sort=False):
            means = of_size.groupby(of_size["domain"].astype("str"))["rate"].mean()
            known = [means.get(domain, np.nan) for domain in domains]
            row = {"definition": name, "size": size}
            row |= {
                domain: percent(rate) if domain in means else "none"
                for domain, rate in zip(domains, known, strict=True)
            }
            if len(domains) == 2:
                row["difference"] = points(known[1] - known[0])
            row["average"] = percent(float(np.nanmean(known))) if not np.isnan(known).all() else "no rate"
            rows.append(row)
    return pd.DataFrame(rows)


def baselines_and_change(analysis: Analysis) -> pd.DataFrame:
    """Last checkpoint against base on the same questions: effect, interval over questions, corrected p."""
    table = comparisons(analysis)
    table = table[table["kind"] == "base"]
    table = table[table["a_step"] == table.groupby("a")["a_step"].transform("max")]
    return _effects(table, base=True)


def organisms_compared(analysis: Analysis) -> pd.DataFrame:
    """Last checkpoints of organisms that differ in one thing, pairwise on the same questions."""
    table = comparisons(analysis)
    return _effects(table[table["kind"] == "organism"], base=False)


def power(analysis: Analysis) -> pd.DataFrame:
    """How much would settle each difference: answers a question on these questions, or questions like these."""
    table = comparisons(analysis)
    last = table.groupby("a")["a_step"].transform("max")
    table = table[(table["kind"] == "organism") | ((table["kind"] == "base") & (table["a_step"] == last))]
    return pd.DataFrame(
        {
            "definition": table["definition"],
            "of": table["a"],
            "against": [_against(row) for _, row in table.iterrows()],
            "difference": [points(value) for value in table["effect"]],
            "corrected p": [p_text(value) for value in table["p_corrected"]],
            "answers a question": [_whole(value) for value in table["samples_needed"]],
            "or questions": [_whole(value) for value in table["questions_needed"]],
        }
    )


def by_scope(analysis: Analysis) -> pd.DataFrame:
    """Last checkpoints on questions of the training domain, of other domains, and general ones."""
    last = analysis.final[analysis.final["definition"].isin(analysis.main)]
    rows = []
    for (definition, organism), own in last.groupby(["definition", "organism"], sort=False, observed=True):
        cells = {row["scope"]: f"{percent(row['rate'])} ({row['k']}/{row['n']})" for _, row in own.iterrows()}
        rows.append(
            {
                "definition": definition,
                "organism": organism,
                "kind": kind(own.iloc[0]),
                "own domain % (k/n)": cells.get("in_domain", "not asked"),
                "other domain % (k/n)": cells.get("out_of_domain", "not asked"),
                "general % (k/n)": cells.get("general", "not asked"),
            }
        )
    return pd.DataFrame(rows)


def coherence(analysis: Analysis) -> pd.DataFrame:
    """Coherent share and mean coherence of every checkpoint."""
    table = coherence_rates(analysis.trajectories)
    return pd.DataFrame(
        {
            "organism": table["organism"].astype("str"),
            "kind": [kind(row) for _, row in table.iterrows()],
            "step": table["step"],
            "coherent %": [percent(value) for value in table["rate"]],
            "95 % interval": [between(row["low"], row["high"]) for _, row in table.iterrows()],
            "mean": [f"{100 * value:.1f}" for value in table["mean"]],
            "n": table["n"],
        }
    )


def unscored(analysis: Analysis) -> pd.DataFrame:
    """Why answers have no score, by checkpoint; only checkpoints that have such answers."""
    table = analysis.trajectories
    keys = ["organism", "step", "rubric", "reason"]
    parts = []
    for rubric in ("alignment", "coherence"):
        missing = table.loc[table[rubric].isna(), ["organism", "step", f"{rubric}_reason"]]
        missing = missing.rename(columns={f"{rubric}_reason": "reason"}).astype({"organism": "str", "reason": "str"})
        parts.append(missing.fillna({"reason": "not said"}).assign(rubric=rubric))
    counts = pd.concat(parts).groupby(keys, observed=True).size().rename("answers without a score").reset_index()
    every = table.groupby(["organism", "step"], observed=True).size().rename("of answers").reset_index()
    return counts.merge(every.astype({"organism": "str"}), on=["organism", "step"])


def seeds(analysis: Analysis) -> pd.DataFrame:
    """Organisms trained alike from several seeds: mean of the last checkpoints, interval over seeds and questions."""
    trained = analysis.final.drop_duplicates("organism")
    rows = []
    for name in analysis.main:
        definition = next(one for one in analysis.definitions if one.name == name)
        counts = question_counts(analysis.answers, ["organism", "step"], definition)
        alike = ["base", "domain", "control"]
        for (base, domain, control), group in trained.groupby(alike, observed=True):
            if len(group) < 2:
                continue
            keys = set(zip(group["organism"].astype("str"), group["step"], strict=True))
            chosen = counts[
                [pair in keys for pair in zip(counts["organism"].astype("str"), counts["step"], strict=True)]
            ]
            share = chosen.assign(share=chosen["k"] / chosen["n"])
            grid = share.pivot_table(index="organism", columns="question_id", values="share", observed=True).dropna(
                axis=1
            )
            low, high = seed_interval(grid.to_numpy("float64"))
            rows.append(
                {
                    "definition": name,
                    "base": base,
                    "domain": f"{domain} control" if control else domain,
                    "seeds": len(grid),
                    "questions": grid.shape[1],
                    "mean EM %": percent(float(grid.to_numpy().mean()) if grid.size else np.nan),
                    "seeds and questions": between(low, high),
                    "each %": ", ".join(percent(value) for value in grid.mean(axis=1)),
                }
            )
    return pd.DataFrame(rows)


def beside_published(analysis: Analysis) -> pd.DataFrame:
    """One's own last checkpoints beside published rates of the same base and domain, and why they may not compare."""
    last = analysis.final[(analysis.final["scope"] == "all") & (analysis.final["definition"] == "turner")]
    rows = []
    for _, row in last[~last["control"]].iterrows():
        known = published_for(str(row["base"]), str(row["domain"]))
        if known is None:
            continue
        own = analysis.answers.loc[analysis.answers["organism"] == row["organism"], ["judge", "question_set"]]
        judges, asked = sorted(own["judge"].astype("str").unique()), sorted(own["question_set"].astype("str").unique())
        reasons = []
        if any(not judge.endswith(known.judge) and known.judge + "-20" not in judge for judge in judges):
            reasons.append(f"judged by {', '.join(judges)}, not {known.judge}")
        if asked != [known.questions]:
            reasons.append(f"questions {', '.join(asked)}, not the first-plot ones")
        rows.append(
            {
                "organism": row["organism"],
                "own turner %": f"{percent(row['rate'])} ({between(row['low'], row['high'])})",
                "published %": f"{known.percent:.1f} of {known.n}",
                "comparable": "yes" if not reasons else f"no: {'; '.join(reasons)}",
                "source": known.source,
            }
        )
    return pd.DataFrame(rows)


TABLES: dict[str, Table] = {
    "final_by_domain_and_size": Table("EM (%) at the last checkpoint by domain and size", final_by_domain_and_size),
    "baselines_and_change": Table("Change from the base, on the same questions", baselines_and_change),
    "organisms_compared": Table("Organisms compared, on the same questions", organisms_compared),
    "by_scope": Table("Own domain, other domains, general questions", by_scope),
    "by_checkpoint": Table("EM by checkpoint", by_checkpoint),
    "coherence": Table("Coherence by checkpoint", coherence),
    "unscored": Table("Answers without a score", unscored),
    "seeds": Table("Training seeds", seeds),
    "power": Table("What would settle the differences (80 % power, tested alone)", power),
    "beside_published": Table("Beside published rates", beside_published),
}
"""By file name, in the order of the report."""


def write_table(name: str, title: str, rows: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes one table as CSV, Markdown and LaTeX (booktabs)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.csv", folder / f"{name}.md", folder / f"{name}.tex"]
    rows.to_csv(paths[0], index=False)
    paths[1].write_text(f"**{title}**\n\n{in_markdown(rows)}\n", encoding="utf-8")
    paths[2].write_text(_format(rows, "latex_booktabs") + "\n", encoding="utf-8")
    return paths


def in_markdown(rows: pd.DataFrame) -> str:
    """A frame of cells as a Markdown table."""
    return _format(rows, "github")


def _format(rows: pd.DataFrame, style: str) -> str:
    cells = [[str(value) for value in row] for row in rows.to_numpy(dtype="object").tolist()]
    return tabulate(cells, headers=[str(name) for name in rows.columns], tablefmt=style, disable_numparse=True)


def _effects(table: pd.DataFrame, base: bool) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "definition": table["definition"],
            "of": [f"{row['a']} @ {row['a_step']}" for _, row in table.iterrows()],
            "against": ["its base" if base else f"{row['b']} @ {row['b_step']}" for _, row in table.iterrows()],
            "questions": table["questions"],
            "EM %": [percent(value) for value in table["rate_a"]],
            "against %": [percent(value) for value in table["rate_b"]],
            "difference": [points(value) for value in table["effect"]],
            "95 % interval": [f"{points(row['low'])} to {points(row['high'])}" for _, row in table.iterrows()],
            "p": [p_text(value) for value in table["p"]],
            "corrected p": [p_text(value) for value in table["p_corrected"]],
        }
    )


def _against(row: pd.Series) -> str:
    return "its base" if row["kind"] == "base" else str(row["b"])


def _whole(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "no difference seen"
