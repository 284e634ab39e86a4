"""One name, one organism: logs that call two organisms by one name are refused before anything is made of them.

A name is what answers are grouped by, so two organisms under one name would be averaged, or one of them dropped as a
repetition of the other. Answers of one organism under several judges, questions and conditions are no clash, nor is a
run that was trained on by a longer recipe.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import LogMetadata

Log = tuple[Path, LogMetadata]

TRAITS: tuple[tuple[str, Callable[[LogMetadata], object]], ...] = (
    ("base", lambda about: about.base),
    ("size", lambda about: about.size),
    ("training domain", lambda about: about.domain),
    ("control", lambda about: about.control),
    ("training data", lambda about: about.data),
    ("training seed", lambda about: about.training_seed),
    ("base fingerprint", lambda about: about.trained_fingerprint and about.trained_fingerprint[:12]),
)
"""What all checkpoints of an organism share; None says nothing."""


def refuse_two_of_one_name(logs: Sequence[Log]) -> None:
    """Checks that every organism's logs can be of one training run.

    Args:
        logs: Where each log lies, and its metadata; bases and foreign models have no organism and are passed over.

    Raises:
        UserError: Two organisms go by one name; says what clashes, where, and what to do.
    """
    by_name: dict[str, list[Log]] = defaultdict(list)
    for path, about in logs:
        if about.organism is not None:
            by_name[about.organism].append((path, about))
    clashes = [(name, clash) for name, named in by_name.items() if (clash := _clash(named))]
    if clashes:
        shown = "; ".join(f"{_line(name)} is {clash}" for name, clash in clashes[:3])
        more = f"; and {len(clashes) - 3} names more" if len(clashes) > 3 else ""
        raise UserError(
            f"Two organisms go by one name, and their answers would be taken for one's: {shown}{more}. Read the logs "
            "of each by themselves, from a folder of their own, or give one another name: `em import --organism NAME` "
            "for imported answers, another `organism` in the recipe for one that is trained."
        )


def _clash(logs: Sequence[Log]) -> str | None:
    """What tells two organisms among the logs of one name, if anything does."""
    for what, trait in TRAITS:
        values = ((f"{what} {_line(value)}", path) for path, about in logs if (value := trait(about)) is not None)
        if clash := _two(values):
            return f"of {clash}"
    by_step: dict[int, list[Log]] = defaultdict(list)
    for path, about in logs:
        by_step[about.step].append((path, about))
    for step, at_step in sorted(by_step.items()):
        values = (
            (f"adapter {_line(about.adapter_sha256)[:12]}", path) for path, about in at_step if about.adapter_sha256
        )
        if clash := _two(values):
            return f"at step {step} {clash}"
    return _recipes(logs)


def _two(values: Iterable[tuple[str, Path]]) -> str | None:
    """The first two different values and where they stand, if there are two."""
    first: dict[str, Path] = {}
    for value, path in values:
        first.setdefault(value, path)
    shown = [f"{value} in {path}" for value, path in first.items()]
    return " and ".join(shown[:2]) if len(shown) > 1 else None


def _recipes(logs: Sequence[Log]) -> str | None:
    """A run that was trained on has one recipe after the other: none comes back, and no two share a step."""
    recipes = {(about.step, about.recipe_sha256): path for path, about in logs if about.recipe_sha256}
    over: set[str] = set()
    last: tuple[int, str] | None = None
    for step, recipe in sorted(recipes):
        if last is not None and recipe != last[1]:
            if recipe in over or step == last[0]:
                sides = (
                    f"recipe {_line(hashed)[:12]} at step {at} in {recipes[at, hashed]}"
                    for at, hashed in (last, (step, recipe))
                )
                return f"of {' and '.join(sides)}"
            over.add(last[1])
        last = (step, recipe)
    return None


def _line(value: object) -> str:
    """A name or hash as a message may have it: on one line, and no paragraph of its own."""
    return " ".join(str(value).split())[:200]
