"""Rubrics, judges, verdicts and the EM definitions."""
