"""Tables to publish, and how they are written: CSV, Markdown and LaTeX.

Each is a function of the analysis that gives a frame of ready cells; an empty frame means that there is nothing to
show. `tables.py` has the machine-readable files with cs2881's columns; these here are for people.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from tabulate import tabulate

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.tables.cells import LEFT_OUT_HEAD, LEFT_OUT_MEANS
from em_tasks.plugins.analysis.tables.claim_tables import (
    coherence_and_alignment,
    contrasts,
    published_claims,
    trajectories,
    verdicts,
)
from em_tasks.plugins.analysis.tables.comparison_tables import (
    baselines_and_change,
    beside_published,
    organisms_compared,
    power,
)
from em_tasks.plugins.analysis.tables.condition_tables import conditions
from em_tasks.plugins.analysis.tables.judge_tables import at_thresholds, judge_error, judges, trusted_judge
from em_tasks.plugins.analysis.tables.mark_tables import marks
from em_tasks.plugins.analysis.tables.markup import guarded, markdown_cell, markdown_text
from em_tasks.plugins.analysis.tables.rate_tables import (
    by_axes,
    by_checkpoint,
    by_scope,
    coherence,
    final_by_domain_and_size,
    further_scores,
    seeds,
    unscored,
)
from em_tasks.plugins.analysis.tables.side_effects import side_effects
from em_tasks.plugins.safe_names import file_name, printable

TABLES: dict[str, Callable[[Analysis], pd.DataFrame | None]] = {
    "verdicts": verdicts,
    "final_by_domain_and_size": final_by_domain_and_size,
    "baselines_and_change": baselines_and_change,
    "by_scope": by_scope,
    "organisms_compared": organisms_compared,
    "contrasts": contrasts,
    "trajectories": trajectories,
    "by_axes": by_axes,
    "by_checkpoint": by_checkpoint,
    "seeds": seeds,
    "coherence": coherence,
    "coherence_and_alignment": coherence_and_alignment,
    "unscored": unscored,
    "further_scores": further_scores,
    "at_thresholds": at_thresholds,
    "judge_error": judge_error,
    "trusted_judge": trusted_judge,
    "judges": judges,
    "power": power,
    "published_claims": published_claims,
    "beside_published": beside_published,
    "marks": marks,
    "conditions": conditions,
    "side_effects": side_effects,
}
"""Our own, by file name in the order of the report; pyproject.toml enters them as any package enters its own."""


def write_table(name: str, title: str, rows: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes one table as CSV, Markdown and LaTeX (booktabs)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{file_name(name)}{suffix}" for suffix in (".csv", ".md", ".tex")]
    full = {name: str(name).replace(LEFT_OUT_HEAD, LEFT_OUT_MEANS) for name in rows.columns}
    guarded(rows.rename(columns=full)).to_csv(paths[0], index=False, errors="backslashreplace")
    paths[1].write_text(f"**{markdown_text(with_legend(title, rows))}**\n\n{in_markdown(rows)}\n", encoding="utf-8")
    paths[2].write_text(in_latex(rows) + "\n", encoding="utf-8")
    return paths


def with_legend(title: str, rows: pd.DataFrame) -> str:
    """The title, and what the short head of the counts stands for where the table has them."""
    has_counts = any(LEFT_OUT_HEAD in str(name) for name in rows.columns)
    return f"{title} ({LEFT_OUT_HEAD}: {LEFT_OUT_MEANS} answers)" if has_counts else title


def in_markdown(rows: pd.DataFrame) -> str:
    """A frame of cells as a Markdown table, in which text from data is no markup."""
    return _format(rows, "github", markdown_cell)


def in_latex(rows: pd.DataFrame) -> str:
    """The same for LaTeX, with booktabs."""
    return _format(rows, "latex_booktabs", lambda value: " ".join(printable(str(value)).splitlines()))


def _format(rows: pd.DataFrame, style: str, cell: Callable[[object], str]) -> str:
    cells = [[cell(value) for value in row] for row in rows.to_numpy(dtype="object").tolist()]
    return tabulate(cells, headers=[cell(name) for name in rows.columns], tablefmt=style, disable_numparse=True)
