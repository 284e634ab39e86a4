"""From judged answers to a local judge with a card: `em judge train`."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge.card import Card, Split, card_path
from em_tasks.plugins.local_judge.examples import Example, Parts, hold_out, read_material
from em_tasks.plugins.local_judge.figures import LEAST_ANSWERS, split_of, uses
from em_tasks.plugins.local_judge.learning import BATCH, RANK, RATE, SCALING, Learner
from em_tasks.plugins.local_judge.network import Network, default_device
from em_tasks.plugins.local_judge.off_topic import put_elsewhere
from em_tasks.plugins.local_judge.rows import VERSION
from em_tasks.plugins.log_contract import NOT_RECORDED
from em_tasks.trainers.bases.kept import NAMED, clear_away, kept_base
from em_tasks.trainers.run.base_names import beside

NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
MOST_MEASURED = {"cpu": 2_000, "gpu": 20_000}
"""Answers of each held-out set that are judged at most, drawn at random."""
PREFIX = ".em-judge-training-"
"""How the name of a folder begins in which a judge is being taught."""
ALSO_TIMES = 4
"""How often a pass goes over answers that are learnt beside the others."""


@dataclass(frozen=True)
class Recipe:
    """How a judge is taught.

    Attributes:
        passes: How often each answer is learnt.
        most: Answers to learn from at most.
        of_a_question: Answers to learn from at most of one question; all if None.
        new_questions: Whether questions are held out as well as models.
        batch: Rows of a step.
        rate: The highest learning rate.
        seed: Of the split, the weights and the order.
    """

    passes: int = 1
    most: int = 20_000
    of_a_question: int | None = None
    new_questions: bool = True
    batch: int = BATCH
    rate: float = RATE
    seed: int = 0


def train_judge(
    paths: Sequence[Path],
    name: str,
    base: str,
    how: Recipe | None = None,
    also: Sequence[Path] = (),
    teacher: str | None = None,
    folder: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> tuple[Card, Path]:
    """Teaches a base to judge as the teacher of these answers did, and measures it on what it has not seen.

    Args:
        paths: Logs, and files of judged answers.
        name: What the judge is called: `emlocal/NAME` judges with it.
        base: As in a recipe; a relative path counts from the working directory.
        how: How it is taught; as `Recipe` says where left out.
        also: Files of answers that are learnt `ALSO_TIMES` a pass and not held out, such as some scored by oneself.
        teacher: Who scored the answers at `paths`, instead of what they say.
        folder: Where it goes; the user's folder of judges if left out.
        say: Told in a line what it learns from.
        progress: Told the step and the number of steps.

    Returns:
        The card and where it lies, the weights beside it.

    Raises:
        UserError: There is a judge of that name, the answers or the base cannot be used, or the folder not be written.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r} is no name for a judge: letters, digits, dots, dashes and underscores alone.")
    path = card_path(name, folder)
    if path.exists():
        raise UserError(f"There is a judge {name} in {path.parent} already. Choose another --name, or delete it.")
    how = how or Recipe()
    material = read_material(paths)
    teacher = teacher or ", ".join(material.teachers)
    parts = hold_out(material, how.most, how.seed, how.of_a_question, how.new_questions)
    beside_them = read_material(also) if also else None
    added = beside_them.examples if beside_them else []
    parts = parts.without(added)
    say(
        f"{len(parts.learnt):,} answers to learn from, scored by {teacher}; held out: "
        + ", ".join(f"{len(part):,} ({held_out})" for held_out, part in parts.held_out.items())
        + (f"; {material.left_out:,} without a score or of a kind that is not judged" if material.left_out else "")
    )
    base = beside(base, Path.cwd())
    with _place(path.parent) as temporary:
        learner = Learner(base, how.seed)
        weights = temporary / f"{name}.safetensors"
        learner.save(weights)  # As large as it will be: a disk without room for it is met now.

        def step_done(step: int, steps: int) -> None:
            os.utime(temporary)  # At work: nobody clears it away.
            progress(step, steps)

        elsewhere, more = teach(learner, parts.learnt, added, how, step_done)
        learner.save(weights)
        scorers = beside_them.teachers if beside_them else ()
        learnt_from = _learnt_from(parts, elsewhere, more, how.passes, scorers)
        card = card_of(name, base, learner.base_fingerprint, weights, teacher, learnt_from)
        write_card(card, temporary)
        good, bad = uses(splits := _measured(Network(name, temporary), parts, how.seed))
        card = card.model_copy(update={"splits": splits, "may_be_used_for": good, "not_for": bad})
        write_card(card, temporary)
        # The card last: weights without one are no judge.
        weights.replace(path.with_suffix(".safetensors"))
        (temporary / f"{name}.json").replace(path)
    return card, path


def teach(
    learner: Learner,
    learnt: Sequence[Example],
    added: Sequence[Example],
    how: Recipe,
    progress: Callable[[int, int], None] = lambda step, steps: None,
) -> tuple[int, int]:
    """Has a base learn judged answers and, `ALSO_TIMES` a pass, added ones, and some of both under other questions.

    Returns:
        How many of the learnt were put under another question, and the rows a pass that the added ones make.
    """
    elsewhere, more = put_elsewhere(learnt, how.seed), ALSO_TIMES * list(added)
    # Their own questions alone: published answers under these cost new questions more than they gave.
    more += put_elsewhere(more, how.seed, learnt)
    learner.learn([*learnt, *elsewhere, *more], how.passes, progress, how.batch, how.rate)
    return len(elsewhere), len(more)


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the judges, deleted in the end, as are those that killed commands left.

    Raises:
        UserError: The folder cannot be written, or its disk is full.
    """
    from safetensors import SafetensorError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_away(folder, PREFIX)
        with TemporaryDirectory(prefix=PREFIX, dir=folder) as temporary:
            yield Path(temporary)
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(
            f"The folder of judges, {folder}, cannot be written: {reason}. Make room, or name another with --out (or "
            "EM_JUDGES). Nothing half-written was left."
        ) from error


def card_of(name: str, base: str, base_fingerprint: str, weights: Path, teacher: str, learnt_from: str) -> Card:
    """The card of freshly trained weights, which says nothing yet about how right they are."""
    with weights.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    kept = kept_base(base) if base in NAMED else None
    by_file = kept.sha256 if kept is not None and kept.kind == "gguf" else None
    return Card(
        name=name,
        version=VERSION,
        base=base,
        base_sha256=by_file,
        base_fingerprint=base_fingerprint if by_file is None else None,
        weights_sha256=sha256,
        rank=RANK,
        scaling=SCALING,
        teacher=teacher,
        learnt_from=learnt_from,
        splits=(),
        not_for=(),
    )


def write_card(card: Card, folder: Path) -> None:
    """Writes a card under its name, where `Network` looks for it."""
    (folder / f"{card.name}.json").write_text(card.model_dump_json(indent=1, exclude_none=False) + "\n", "utf-8")


def _learnt_from(parts: Parts, elsewhere: int, more: int, passes: int, scorers: Sequence[str]) -> str:
    models, questions = (len({getattr(example, what) for example in parts.learnt}) for what in ("source", "family"))
    return (
        f"{len(parts.learnt):,} answers to {questions} questions by {models} models or checkpoints"
        + (f" and {elsewhere:,} of them put to another question" if elsewhere else "")
        + (f"; {more:,} rows a pass of answers added to them, scored by {_told(scorers)}" if more else "")
        + f"; {passes} {'pass' if passes == 1 else 'passes'}"
    )


def _told(scorers: Sequence[str]) -> str:
    return ", ".join("somebody who is not named" if scorer == NOT_RECORDED else scorer for scorer in scorers)


def _measured(network: Network, parts: Parts, seed: int) -> tuple[Split, ...]:
    generator = np.random.default_rng(seed)
    most = MOST_MEASURED["cpu" if default_device() == "cpu" else "gpu"]
    splits = []
    for held_out, part in parts.held_out.items():
        chosen = [part[place] for place in generator.permutation(len(part))[:most]]
        if len(chosen) >= LEAST_ANSWERS:
            opinions = network.judge([(example.question, example.answer) for example in chosen])
            splits.append(split_of(held_out, chosen, opinions))
    return tuple(splits)
