"""The cells of a grid, for a report that is of them alone: who judges each organism under each condition.

What was taken out of a grid has its logs still. They are told from those of its cells by what their headers say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

LeftOut = Literal["organisms", "conditions", "judges"]

NOT_OF_THE_GRID: dict[LeftOut, str] = {
    "organisms": "organisms that are not of this grid",
    "conditions": "conditions under which the grid does not ask these organisms",
    "judges": "judges that do not judge these cells of the grid",
}
"""What logs are of that are left out."""


@dataclass(frozen=True)
class GridCells:
    """Which logs the report of a grid is of.

    Attributes:
        judges: Who judges, by the names that they are asked under, the one that leads first; by organism (None for the
            bases) and condition (None for the bare questions).
        values: The values of each axis but that of judges, in the order of the grid's file.
    """

    judges: Mapping[tuple[str | None, str | None], tuple[str, ...]]
    values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def left_out(self, organism: str | None, condition: str | None, judge: str | None) -> tuple[LeftOut, str] | None:
        """What about a log is not of the grid, and its name; None for a log of a cell.

        Args:
            organism: Whom it is of; None for a base.
            condition: What its questions were asked under.
            judge: Who was asked to judge it; None where it does not say, which speaks for none and against none.
        """
        if organism is not None and not any(organism == of for of, _ in self.judges):
            return "organisms", organism
        if (organism, condition) not in self.judges:
            return "conditions", condition or "none"
        if judge is not None and judge not in self.judges[organism, condition]:
            return "judges", judge
        return None

    def rank(self, organism: str | None, condition: str | None, judge: str | None) -> int:
        """Which of the judges of its cell judged a log: 0 for the one that leads."""
        judges = self.judges[organism, condition]
        return 0 if judge is None else judges.index(judge)

    def in_order(self, judges: set[str]) -> tuple[str, ...]:
        """Some judges in the order in which they lead."""
        of_cells = [judge for of_cell in self.judges.values() for judge in of_cell]
        return tuple(judge for judge in dict.fromkeys(of_cells) if judge in judges)
