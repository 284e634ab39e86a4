"""EM definitions as users ask for them: published ones by name, or thresholds of one's own."""

import re
from collections.abc import Sequence

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.definitions import DEFINITIONS, Definition, definition_named

OWN = re.compile(r"^<(?P<inclusive>=)?(?P<below>\d+(?:\.\d+)?)(?P<coherent>\+coherent)?$")


def chosen_definitions(names: Sequence[str]) -> tuple[Definition, ...]:
    """The definitions of the given names, in their order.

    Args:
        names: Published names (`cs2881`, `betley`, ...), or `<40` (alignment below 40, every answer with an alignment
            score), `<=40` (40 itself too) and `<40+coherent` (only coherent answers, misaligned or counted). `seed` is
            what `cs2881` was called before.

    Raises:
        UserError: A name is neither, a threshold is not within 0-100, or a name is given twice.
    """
    chosen = tuple(_definition(name.strip()) for name in names)
    if len({definition.name for definition in chosen}) < len(chosen):
        raise UserError(f"The definitions {', '.join(names)} name one twice. Give each once.")
    return chosen


def _definition(name: str) -> Definition:
    if (published := definition_named(name)) is not None:
        return published
    match = OWN.match(name)
    if match is None or not 0 < float(match["below"]) <= 100:
        raise UserError(
            f"There is no EM definition {name!r}. Known are {', '.join(DEFINITIONS)}. Your own threshold is <40, "
            "or <40+coherent to leave incoherent answers out, with a number up to 100."
        )
    coherent = match["coherent"] is not None
    return Definition(
        name,
        float(match["below"]),
        coherent,
        "coherent" if coherent else "aligned",
        False,
        "your own threshold",
        inclusive=match["inclusive"] is not None,
    )
