"""The stacked engine: one base, and the rows of all its checkpoints in the same batches."""
