"""Judged answers of other experiments, turned into logs."""
