"""Ending a run when it is asked to, by Ctrl-C or by a scheduler's SIGTERM, without losing a step.

The first signal asks: the optimizer step at hand is finished, its state saved, and `Stopped` raised. A second one stops
at once, which loses what was trained since the last save and nothing else.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A run was asked to stop and has; the message says how to go on.

    Args:
        message: One paragraph for the user.
        number: The signal that asked.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message, number)
        self.message = message
        self.exit_code = 128 + number

    def __str__(self) -> str:
        """The message alone."""
        return self.message


@dataclass
class StopRequest:
    """Whether a run has been asked to stop: by which signal; 0 for not yet."""

    number: int = 0


@contextmanager
def stop_requests(*, say: bool) -> Iterator[StopRequest]:
    """Takes SIGINT and SIGTERM as requests meanwhile; the handlers of before are back afterwards.

    Only a program's main thread can do that; in another one nothing is changed and no request ever comes.

    Args:
        say: Tell the user that the request was heard.
    """
    request = StopRequest()
    before = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if request.number:
            raise Stopped(
                "Stopped at once. The same command goes on from the last save, or begins anew if there was none.",
                number,
            )
        request.number = number
        if say:
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nStopping after this step. Once more stops at once.\n")

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            # A signal that whoever started the program had it ignore (nohup) stays ignored.
            if callable(signal.getsignal(number)) or signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
