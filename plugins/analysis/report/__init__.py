"""The report: findings in words, notes, Markdown and HTML."""
