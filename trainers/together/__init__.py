"""Several organisms of one base trained in one process, their rows in one pass over it."""
