"""Inspect tasks for emergent misalignment, the sweep over checkpoints, and the `em` command line."""
