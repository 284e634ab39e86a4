"""One name for each model: files, columns and maps may call several by one, which would then be taken for one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from em_tasks.plugins.analysis.importing.who import Who
from em_tasks.plugins.log_contract import NOT_RECORDED

TOLD_BY = ("base", "size", "domain", "data", "control", "training_seed")
"""What one organism has one of, in the order in which names say it; a base has but its size."""

Name = tuple[bool, str]
"""Whether it is a base's, and the name."""


PASSES = 3
"""A name that was made may be one that another model had from the start, so names are looked at again. What shares one
even then is refused when the logs are read together."""


def named_apart(whos: Sequence[Who], notes: list[str]) -> list[Who]:
    """The same, with what tells models of one name apart in their names.

    Several training seeds become `name-seed0` and so on, as training calls them; anything else stands in brackets.

    Args:
        whos: Complete ones.
        notes: Receives a sentence for each name that several models had.
    """
    named = list(whos)
    for _ in range(PASSES):
        named = _pass(named, notes)
    return named


def _pass(whos: list[Who], notes: list[str]) -> list[Who]:
    by_name: dict[Name, set[tuple[object, ...]]] = defaultdict(set)
    for who in whos:
        by_name[_name(who)].add(_traits(who))
    several = {name: traits for name, traits in by_name.items() if len(traits) > 1}
    named = [_renamed(who, several[_name(who)]) if _name(who) in several else who for who in whos]
    for is_base, name in several:
        names = list(
            dict.fromkeys(_name(new)[1] for who, new in zip(whos, named, strict=True) if _name(who) == (is_base, name))
        )
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        what = "bases" if is_base else "organisms"
        notes.append(f"{name} is the name of {len(names)} {what}, which are told apart as {shown}.")
    return named


def _name(who: Who) -> Name:
    return bool(who.is_base), str(who.base if who.is_base else who.organism)


def _traits(who: Who) -> tuple[object, ...]:
    if who.is_base:
        return (None, who.size, None, None, False, None)
    return tuple(bool(who.control) if name == "control" else getattr(who, name) for name in TOLD_BY)


def _renamed(who: Who, traits: set[tuple[object, ...]]) -> Who:
    differing = [name for name, values in zip(TOLD_BY, zip(*traits, strict=True), strict=True) if len(set(values)) > 1]
    if who.is_base:
        return replace(who, base=f"{who.base} ({who.size})")
    if "size" in differing and len({values[:2] for values in traits}) == len({values[0] for values in traits}):
        differing.remove("size")  # The base tells it already.
    told = [str(getattr(who, name) or NOT_RECORDED) for name in differing if name not in ("control", "training_seed")]
    if "control" in differing:
        told.append("control" if who.control else "no control")
    seed = f"-seed{who.training_seed}" if "training_seed" in differing and who.training_seed is not None else ""
    brackets = f" ({', '.join(told)})" if told else ""
    return replace(who, organism=f"{who.organism}{brackets}{seed}")
