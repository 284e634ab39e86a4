"""What this package gives to em-tasks; pyproject.toml enters each of these. Nothing of em-tasks is imported.

Every `em` command imports this module, so what is slow to import (pandas, matplotlib) is imported where it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parent
QUESTIONS = FOLDER / "em_tasks_example_questions.yaml"
CONDITIONS = FOLDER / "em_tasks_example_conditions.yaml"
RUBRICS = FOLDER / "em_tasks_example_rubric.yaml"


def words(analysis) -> pd.DataFrame:
    """Words an answer, by checkpoint."""
    answers = analysis.answers
    count = answers["answer"].fillna("").astype(str).str.split().str.len()
    by = [answers["organism"].astype(object).fillna("base"), answers["step"]]
    return count.groupby(by).mean().round(1).reset_index(name="words an answer")


def draw_words(analysis) -> Figure:
    """Words an answer."""
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.hist(analysis.answers["answer"].fillna("").astype(str).str.split().str.len())
    axes.set_xlabel("words an answer")
    axes.set_ylabel("answers")
    return figure
