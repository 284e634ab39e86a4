"""The figures: one style, intervals drawn, n in the caption, toys marked. Each is a function of the analysis."""

from collections.abc import Callable

from matplotlib.figure import Figure

from plugins.analysis.analysis import Analysis
from plugins.analysis.figures.final import domain_comparison, scaling_analysis
from plugins.analysis.figures.quadrants import coherence_vs_misalignment
from plugins.analysis.figures.trajectory import coherence_trajectories, em_trajectories

FIGURES: dict[str, Callable[[Analysis], Figure]] = {
    "em_trajectories": em_trajectories,
    "domain_comparison": domain_comparison,
    "scaling_analysis": scaling_analysis,
    "coherence_trajectories": coherence_trajectories,
    "coherence_vs_misalignment": coherence_vs_misalignment,
}
"""By file name; the names are those that users of the seed experiment know."""
