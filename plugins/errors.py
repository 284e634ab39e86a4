"""Errors of evaluations as `inspect eval` should show them: one paragraph instead of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

from click import ClickException


class EvaluationError(ClickException, ValueError):
    """What the user can mend before an evaluation runs. Inspect's command line prints its message alone."""


@contextmanager
def shown_plainly() -> Iterator[None]:
    """Turns the errors that are meant for the user into ones that `inspect eval` prints without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise EvaluationError(str(error)) from error
