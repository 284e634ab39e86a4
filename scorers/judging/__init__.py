"""One judge call, from a rubric to a verdict, with its cache and its cost."""
