"""What the data show of organisms, contrasts and trajectories: comparisons, their families, and verdicts."""
