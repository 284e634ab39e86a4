"""Which organisms of a grid are trained together in one process."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from em_tasks.grid.needs import Needs
from em_tasks.trainers.passes.batches import USABLE

if TYPE_CHECKING:
    from em_tasks.trainers.run.recipe import Recipe


def trained_together(organisms: Mapping[str, "Recipe"], needs: Needs, gpus: Mapping[str, int]) -> list[tuple[str, ...]]:
    """Groups of what is to be trained; a group of one is trained alone.

    Organisms of one base and precision are spread evenly over the GPUs first, and those that would wait for the same
    one are trained together, as many as its memory holds: that is faster than one after the other, and than processes
    that share the GPU in turns (docs/performance.md). Without a GPU it is not, and nobody is. Those that were begun
    together stay so, with whom of them is finished already, and so come to the numbers of the undisturbed runs; only
    where that leaves a GPU without work are they spread anew.

    Args:
        organisms: Every organism's recipe by its name.
        needs: What each needs.
        gpus: Bytes of each GPU; empty where there are none, or none is known beforehand.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for name in needs.to_train:
        alike.setdefault((organisms[name].base, organisms[name].precision), []).append(name)
    groups: list[tuple[str, ...]] = []
    memory = min(gpus.values(), default=0)
    for names in alike.values():
        begun = _begun_together(names, organisms, needs, memory)
        others = [name for name in names if not any(name in group for group in begun)]
        if len(begun) + len(others) < min(len(gpus), len(names)):
            begun, others = [], names
        groups += begun
        left = len(gpus) - len(begun) if len(gpus) > len(begun) else len(gpus)
        while others:
            share = -(-len(others) // max(1, left)) if gpus else 1
            count = _fitting(others[:share], needs, memory)
            groups.append(tuple(others[:count]))
            others, left = others[count:], left - 1
    return groups


def _begun_together(
    names: Sequence[str], organisms: Mapping[str, "Recipe"], needs: Needs, memory: int
) -> list[tuple[str, ...]]:
    """Whom of these go on with those that they began with, the finished ones among them included."""
    groups: dict[tuple[str, ...], None] = {}
    for name in names:
        together = needs.began.get(name, {})
        group = tuple(each for each in organisms if each in together)
        agreed = len(group) == len(together) > 1 and all(needs.began.get(each) == together for each in group)
        if agreed and _fitting(group, needs, memory) == len(group):
            groups[group] = None
    return list(groups)


def _fitting(names: Sequence[str], needs: Needs, memory: int) -> int:
    """How many of the first fit over one copy of the base, at least one."""
    count, taken = 1, needs.runs[names[0]].base + needs.runs[names[0]].beside
    for name in names[1:]:
        taken += needs.runs[name].beside
        if taken > USABLE * memory:
            break
        count += 1
    return count
