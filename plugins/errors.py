"""Errors that are the user's to mend: one paragraph that says what was found, where, and what to do.

Everything else that goes wrong is a fault of this project and shows its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from click import ClickException

from em_tasks.plugins.safe_names import printable


class UserError(ClickException, ValueError):
    """What the user can mend. `em` and `inspect` print its message alone (both print what derives from click's).

    What comes from data in it cannot move a terminal's cursor or colour what follows.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


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
