"""The attacks of `tests/adversary.py`, one file a kind of input."""

from tests.support.attacks import (
    asking,
    commands,
    importing,
    judge_replies,
    logs,
    reporting,
    runs,
    stored_files,
    training,
)
from tests.support.attacks.kind import Kind

KINDS: tuple[Kind, ...] = (
    *training.KINDS,
    *asking.KINDS,
    *judge_replies.KINDS,
    *runs.KINDS,
    *stored_files.KINDS,
    *importing.KINDS,
    *reporting.KINDS,
    *commands.KINDS,
    *logs.KINDS,
)
