"""Errors that are the user's to mend: one paragraph that says what was found, where, and what to do.

Everything else that goes wrong is a fault of this project and shows its traceback.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from click import ClickException

from em_tasks.plugins.safe_names import printable

LONG_WORD = re.compile(r"\S{1000,}")
"""Longer than any path or hash that a message has to name in full."""


class UserError(ClickException, ValueError):
    """What the user can mend. `em` and `inspect` print its message alone (both print what derives from click's).

    What comes from data in it cannot move a terminal's cursor or colour what follows, and a word of thousands of
    characters is shown by its two ends.
    """

    def __init__(self, message: str) -> None:
        super().__init__(LONG_WORD.sub(_shortened, printable(message)))


def _shortened(word: re.Match[str]) -> str:
    return f"{word[0][:100]}...{word[0][-100:]} ({len(word[0])} characters)"


@contextmanager
def shown_plainly() -> Iterator[None]:
    """Turns what the operating system refuses (a missing file, a full disk) into errors without a traceback.

    Raises:
        UserError: An OSError was raised; the message is its own.
    """
    try:
        yield
    except OSError as error:
        raise UserError(str(error)) from error
