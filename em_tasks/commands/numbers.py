"""Numbers on the command line."""

import math
import re
from typing import Any

import click


class Whole(click.IntRange):
    """A whole number within its range, in plain digits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; ends the command where it is none."""
        if not _is_plain(value, r"[+-]?[0-9]+"):
            self.fail(f"{value!r} is no whole number.", param, ctx)
        return int(super().convert(value, param, ctx))


class Number(click.FloatRange):
    """A finite number within its range, in plain digits; `nan` would pass every range, as nothing compares with it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; ends the command where it is none."""
        if not _is_plain(value, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"):
            self.fail(f"{value!r} is no number.", param, ctx)
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number


def _is_plain(value: Any, form: str) -> bool:
    """Whether a text has that form; Python also reads `1_0` and other scripts' digits as numbers."""
    return not isinstance(value, str) or re.fullmatch(form, value.strip()) is not None
