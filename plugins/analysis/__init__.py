"""The analysis: reads Inspect logs, computes EM rates with intervals, writes tables, figures and the report."""
