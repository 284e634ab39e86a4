"""A verdict: what one judge call said about one answer. Its schema is a part of the log's: plugins/log_contract.py."""

from em_tasks.plugins.log_contract import REASONS, Continuation, Mode, Reason, TokenProbability, Verdict

__all__ = ["REASONS", "Continuation", "Mode", "Reason", "TokenProbability", "Verdict"]
