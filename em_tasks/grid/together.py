"""Which organisms of a grid are trained together in one process."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from em_tasks.grid.needs import Needs
from em_tasks.trainers.passes.batches import USABLE

if TYPE_CHECKING:
    from em_tasks.trainers.run.recipe import Recipe


def trained_together(organisms: Mapping[str, "Recipe"], needs: Needs, gpus: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Groups of what is to be trained; a group of one is trained alone.

    Organisms of one base and precision are spread over the GPUs first, and those that would wait for the same one are
    trained together, as many as its memory holds: that is faster than one after the other, and than processes that
    share the GPU in turns (docs/performance.md). Without a GPU it is not, and nobody is.

    Args:
        organisms: Every organism's recipe by its name.
        needs: What each needs.
        gpus: Bytes of each GPU; empty where there are none, or none is known beforehand.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for name in needs.to_train:
        alike.setdefault((organisms[name].base, organisms[name].precision), []).append(name)
    groups: list[tuple[str, ...]] = []
    for names in alike.values():
        share = -(-len(names) // len(gpus)) if gpus else 1
        start = 0
        while start < len(names):
            count = _fitting(names[start : start + share], needs, min(gpus.values(), default=0))
            groups.append(tuple(names[start : start + count]))
            start += count
    return groups


def _fitting(names: Sequence[str], needs: Needs, memory: int) -> int:
    """How many of the first fit over one copy of the base, at least one."""
    count, taken = 1, needs.runs[names[0]].base + needs.runs[names[0]].beside
    for name in names[1:]:
        taken += needs.runs[name].beside
        if taken > USABLE * memory:
            break
        count += 1
    return count
