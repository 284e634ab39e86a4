"""The toy judge: an Inspect model that reads the toy world's language."""
