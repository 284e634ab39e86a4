"""The figures: one style, intervals drawn, n in the caption, toys marked. Each is a function of the analysis."""

from collections.abc import Callable

from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.figures.axes import em_against_axes
from em_tasks.plugins.analysis.figures.examples import chosen_questions, response_examples
from em_tasks.plugins.analysis.figures.final import domain_comparison, scaling_analysis
from em_tasks.plugins.analysis.figures.heatmap import question_heatmap
from em_tasks.plugins.analysis.figures.judges import judge_comparison
from em_tasks.plugins.analysis.figures.quadrants import coherence_vs_misalignment
from em_tasks.plugins.analysis.figures.thresholds import threshold_sensitivity
from em_tasks.plugins.analysis.figures.trajectory import coherence_trajectories, em_trajectories, further_trajectories
from em_tasks.plugins.log_contract import SCORES_TEXT

FIGURES: dict[str, Callable[[Analysis], Figure | None]] = {
    "em_trajectories": em_trajectories,
    "domain_comparison": domain_comparison,
    "scaling_analysis": scaling_analysis,
    "em_against_axes": em_against_axes,
    "threshold_sensitivity": threshold_sensitivity,
    "question_heatmap": question_heatmap,
    "coherence_trajectories": coherence_trajectories,
    "coherence_vs_misalignment": coherence_vs_misalignment,
    "further_trajectories": further_trajectories,
    "judge_comparison": judge_comparison,
}
"""By file name, in the order of the report; None where there is nothing to draw."""


def example_figures(analysis: Analysis, wanted: tuple[str, ...] = ()) -> dict[str, Figure]:
    """`response_example_q1_table` and so on: answers to three chosen questions, or to those `wanted` by id."""
    questions = chosen_questions(analysis, wanted)
    if (analysis.answers["answer"] == SCORES_TEXT).all():
        return {}
    return {f"response_example_q{i}_table": response_examples(analysis, name) for i, name in enumerate(questions, 1)}
