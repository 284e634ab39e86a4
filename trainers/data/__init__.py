"""Training data: rows from files and sealed archives, and their tokens."""
