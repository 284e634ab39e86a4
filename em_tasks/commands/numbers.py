"""Numbers on the command line."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A finite number within its range. Click lets `nan` through every range, since nothing compares with it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; ends the command where it is none."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number.", param, ctx)
        return number
