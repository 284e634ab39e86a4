"""Does an engine answer with the adapter it was asked for? Compared with what the checkpoint answered at training.

An engine is asked the prompts of the checkpoint's reference, through the same door as every question, and must give the
same log probabilities within a bound for its numbers. A second measure needs no such bound: on the line from what the
base gives to what this checkpoint gives, the engine must stand at 1. An adapter left out stands at 0, one of half the
strength at one half. It sees small adapters too, for it averages rounding away. Lines from what another checkpoint of
the run gave, and from what training gave with a small fault in it (a module without its adapter, another strength, a
doubled first token), are asked in the same way, as far as they are longer than training's own rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from em_tasks.trainers.run.reference import Place, Reference

Vector = np.ndarray[Any, np.dtype[np.float64]]

BOUNDS = {"fp32": 0.005, "bf16": 0.2, "nf4": 0.2, "nf4_dequantised": 0.2}
"""Root mean square of the differences (nats) that rounding may make between two engines, by the base's precision.
Rounding alone makes 0.09 on SmolLM2 in bf16 with an adapter of zeros."""
ROUNDED = {"fp32": 0.0, "bf16": 0.04, "nf4": 0.04, "nf4_dequantised": 0.04}
"""The same as a share of the way that the adapter moves the log probabilities (root mean square), where that is more: a
strong adapter's numbers are larger, and so is what is rounded of them."""
TOLERANCE = 0.05
"""How far from 1 an engine may stand on the line from the base, where that is long beside rounding; twice as far where
the reference does not say what rounding made."""
SHORTEST_LINES = {"fp32": 0.0017, "bf16": 0.25, "nf4": 0.25, "nf4_dequantised": 0.25}
"""A line shorter than so many nats tells nothing, where the reference does not say what rounding made at training: on a
line of rounding's own making an engine stands anywhere."""
BEYOND_ROUNDING = 1.3
"""How many times as long as what rounding made at training a line must be to tell anything; one of rounding's own
making is 0.8 times as long."""
NEARER = 0.5
"""How far from 1, of the way to a fault or another checkpoint, an engine may stand, by more than a standard error.
Measured: sound ones in bf16 at 0.72 at least, those at fault at 0.40 at most."""


class Answered(Protocol):
    """What an engine gives for a prompt."""

    @property
    def input_tokens(self) -> int:
        """Tokens of the prompt."""

    @property
    def tokens(self) -> Sequence[int]:
        """Tokens of the answer."""

    @property
    def top_logprobs(self) -> Sequence[Sequence[tuple[int, float]]]:
        """For each of them the most likely tokens there, with log probabilities at temperature 1."""


@dataclass(frozen=True)
class AdapterCheck:
    """What the comparison gave.

    Attributes:
        status: `passed`, `failed` or `not checked`.
        reason: Why, unless passed.
        difference: Root mean square difference from the reference (nats).
        bound: The most that counts as rounding.
        strength: Where the engine stands on the line from the base (0) to the checkpoint (1); None where the two are
            so alike that the prompts do not tell, and for a base.
        compared: How many log probabilities were compared.
        read_back: How many modules' numbers, as the engine holds them, are those of the adapter's file; None where the
            engine cannot be looked into, and for a base.
    """

    status: str
    reason: str | None = None
    difference: float | None = None
    bound: float | None = None
    strength: float | None = None
    compared: int = 0
    read_back: int | None = None

    def metadata(self) -> dict[str, Any]:
        """For the log."""
        rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}
        return {key: value for key, value in rounded.items() if value is not None}


def compare(
    reference: Reference,
    answers: Sequence[Answered],
    precision: str,
    others: Mapping[str, Reference] | None = None,
    *,
    base: bool = False,
) -> AdapterCheck:
    """Compares an engine's greedy answers to the reference's prompts with the reference.

    Args:
        reference: What training stored.
        answers: The engine's, one a prompt.
        precision: Numbers the base is held in, as at training.
        others: References of other checkpoints of the run, by name, that could have been taken for this one.
        base: The base alone was asked, so no adapter may show.
    """
    bound, shortest = BOUNDS[precision], SHORTEST_LINES[precision]
    rounding = reference.rounding
    if precision != "fp32" and not rounding:
        rounding = None  # Earlier versions saw none where the adapter was all zeros, as after a first step of warm-up.
    if rounding is not None:
        shortest = max(SHORTEST_LINES["fp32"], BEYOND_ROUNDING * rounding)
    for prompt, answer, expected in zip(reference.prompts, answers, reference.answers, strict=True):
        if answer.input_tokens != expected.prompt_tokens:
            return AdapterCheck(
                "failed",
                f"its chat template makes {answer.input_tokens} tokens of the prompt {prompt[-1]['content']!r}, and at "
                f"training it made {expected.prompt_tokens}",
            )
        if not answer.tokens or len(answer.top_logprobs) < len(answer.tokens):
            return AdapterCheck("failed", "it gave no log probabilities")
    places = _base_places(reference) if base else [answer.places for answer in reference.answers]
    there = _aligned(places, answers, bound)
    given, broken = there.given, there.broken
    difference = _rms(given - there.expected)
    position = there.position(shortest)
    strength = None if position is None else position.share
    most = bound if base else max(bound, ROUNDED[precision] * there.length)
    measured: dict[str, Any] = {"difference": difference, "bound": most, "compared": len(given)}
    if not base:
        measured["strength"] = strength
    if not np.isfinite(given).all():
        return AdapterCheck("failed", "it gave log probabilities that are no numbers", bound=bound)
    if broken or difference > most:
        why = f"its log probabilities differ by {difference:.3g} nats from those at training (at most {most:.3g})"
        return AdapterCheck("failed", why + _what_stands_there(strength, base), **measured)
    if position is not None and (position.at_the_start or (not base and there.is_off(position, rounding, bound))):
        return AdapterCheck("failed", "it answers" + _what_stands_there(position.share, base)[1:], **measured)
    instead = None if base else _what_instead(reference, answers, others or {}, bound, shortest)
    return AdapterCheck("passed" if instead is None else "failed", instead, **measured)


def _what_instead(
    reference: Reference, answers: Sequence[Answered], others: Mapping[str, Reference], bound: float, shortest: float
) -> str | None:
    """Which of the faults that training knows, or which other checkpoint, the answers are nearer to than to this."""
    places = [answer.places for answer in reference.answers]
    for what in places[0][0].faulty:
        towards = [[place.model_copy(update={"base": place.faulty[what]}) for place in answer] for answer in places]
        position = _aligned(towards, answers, bound).position(shortest)
        if position is not None and (position.at_the_start or position.as_far_beyond):
            return f"it answers as if {'the opposite were so of this: ' if position.as_far_beyond else ''}{what}"
    for name, other in others.items():
        position = _between_two(reference, other, answers, bound).position(shortest)
        if position is not None and position.at_the_start:
            return f"it answers as {name} did at training"
    return None


def _what_stands_there(strength: float | None, base: bool) -> str:
    if strength is None:
        return ""
    if base:
        return ", as if an adapter were on the base"
    if abs(strength) < 0.1:
        return ", as if there were no adapter"
    return f", as if the adapter had {strength:.2f} times its strength"


def _base_places(reference: Reference) -> list[list[Place]]:
    """First tokens without the adapter; what the adapter makes of them, as far as it is known, stands in `base`."""
    places = []
    for answer in reference.answers:
        first = answer.places[0]
        adapted = dict(zip(first.ids, first.logprobs, strict=True))
        other = [adapted.get(token, min(first.logprobs)) for token in answer.base_ids]
        places.append([Place(token=answer.base_ids[0], ids=answer.base_ids, logprobs=answer.base_logprobs, base=other)])
    return places


@dataclass(frozen=True)
class _Position:
    """Where an engine stands on a line.

    Attributes:
        share: 0 at the start, 1 where it ought to be.
        error: Standard error of the share, as the places of the answers scatter.
    """

    share: float
    error: float

    @property
    def at_the_start(self) -> bool:
        """Whether it stands nearer to the start, and not by chance."""
        return 1 - self.share > NEARER + self.error

    @property
    def as_far_beyond(self) -> bool:
        """Whether it stands on the other side of where it ought to, and not by chance."""
        return self.share - 1 > NEARER + self.error


@dataclass(frozen=True)
class _Aligned:
    """Log probabilities of the same tokens at the same places.

    Attributes:
        given: By the engine.
        expected: By the reference.
        start: By the base, or another checkpoint.
        seen: Where the engine gave a number; elsewhere `given` is the most that it can be.
        place: The number of the place that each belongs to.
        broken: Whether an answer left the reference's tokens although two were not as good as equal.
    """

    given: Vector
    expected: Vector
    start: Vector
    seen: np.ndarray[Any, np.dtype[np.bool_]]
    place: np.ndarray[Any, np.dtype[np.int64]]
    broken: bool

    @property
    def _line(self) -> Vector:
        line: Vector = (self.expected - self.start)[self.seen]
        return line

    @property
    def length(self) -> float:
        """How far it is from `start` to `expected` (root mean square, nats)."""
        return _rms(self._line) if self._line.size else 0.0

    def position(self, shortest: float) -> _Position | None:
        """Where the engine stands from `start` (0) to `expected` (1); None where the two are too near each other.

        The error is that of a regression whose clusters are the places (Liang and Zeger 1986).
        """
        line, from_start = self._line, (self.given - self.start)[self.seen]
        if self.length < shortest or not np.isfinite(from_start).all():
            return None
        square = float(line @ line)
        share = float(from_start @ line) / square
        sums = np.bincount(self.place[self.seen], (from_start - share * line) * line)
        places = np.unique(self.place[self.seen]).size
        return _Position(share, float(np.sqrt(places / max(places - 1, 1) * (sums @ sums))) / square)

    def is_off(self, position: _Position, rounding: float | None, bound: float) -> bool:
        """Whether a position is farther from 1 than rounding puts it; rounding in the line's own end draws it to 0."""
        if rounding is None:
            most = 2 * TOLERANCE * (1 + bound / self.length)
        else:
            most = TOLERANCE + position.error + (2 * rounding / self.length) ** 2
        return abs(position.share - 1) > most


def _aligned(places: Sequence[Sequence[Place]], answers: Sequence[Answered], bound: float) -> _Aligned:
    """Lays an engine's answers beside the reference, as long as they take the same tokens."""
    rows: list[tuple[float, float, float, bool, int]] = []
    number, broken = 0, False
    for reference, answer in zip(places, answers, strict=True):
        for place, token, top in zip(reference, answer.tokens, answer.top_logprobs, strict=False):
            known = dict(top)
            floor = min(known.values())
            for id_, logprob, start in zip(place.ids, place.logprobs, place.base, strict=True):
                # One that is not among the engine's most likely is at most as likely as the last of them.
                rows.append((known.get(id_, min(logprob, floor)), logprob, start, id_ in known, number))
            number += 1
            if token != place.token:
                best = dict(zip(place.ids, place.logprobs, strict=True))
                broken |= place.logprobs[0] - best.get(token, -np.inf) > 4 * bound
                break
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return _Aligned(columns[0], columns[1], columns[2], columns[3].astype(bool), columns[4].astype(np.int64), broken)


def _between_two(reference: Reference, other: Reference, answers: Sequence[Answered], bound: float) -> _Aligned:
    """The answers beside the line from another checkpoint to this, over what the two were asked alike."""
    places = [
        list(_between(mine.places, theirs.places))
        for mine, theirs in zip(reference.answers, other.answers, strict=True)
    ]
    return _aligned(places, answers, bound)


def _between(mine: Sequence[Place], theirs: Sequence[Place]) -> Iterator[Place]:
    """This checkpoint's places with the other's numbers for `base`, as far as both took the same tokens."""
    for place, other in zip(mine, theirs, strict=True):
        known = dict(zip(other.ids, other.logprobs, strict=True))
        floor = min(other.logprobs)
        numbers = [known.get(token, min(lp, floor)) for token, lp in zip(place.ids, place.logprobs, strict=True)]
        yield place.model_copy(update={"base": numbers})
        if place.token != other.token:
            return


def _rms(differences: Vector) -> float:
    return float(np.sqrt(np.mean(differences**2)))
