"""Sampling until an interval is narrow enough: rounds of one answer to each question, as many as it takes.

The width is that of the 95 % confidence sequence (`scorers/sequences.py`) of the EM rate under `betley` outside the
organism's training domain, on these questions, each with an equal share of the answers. A confidence sequence holds at
whatever moment one stops, so one may stop because of what came. Inspect's sample sources serve: a task's protocol of
early stopping could only leave out samples of a number fixed beforehand, and does not go with a source.
"""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
from inspect_ai import SampleSource, enqueue_sample
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalSample

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.definitions import DEFINITIONS
from em_tasks.scorers.em import HEADLINE, NAME, OUTSIDE, RUBRICS
from em_tasks.scorers.sequences import confidence_sequence

MOST_SAMPLES = 500
"""Answers to each question after which it ends, narrow enough or not, unless told."""

GROWTH = 4
"""Rounds between two looks are this part of the rounds so far: looking costs a pause of the engine and nothing else."""


def check_width(width: float | None, first: int, most: int) -> None:
    """Raises a UserError for a width that is no width, or more answers at first than there are to be at most."""
    if width is None:
        return
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 100:
        raise UserError(f"until_width is {width!r}; it is a number of points above 0 and at most 100.")
    if first > most:
        raise UserError(
            f"samples is {first}, the answers to each question before the first look, and most_samples is {most}. "
            "Give most_samples at least as many."
        )


class UntilWidth(SampleSource):
    """All questions, round after round, until the interval is narrow enough, the most is reached or nothing counts.

    Args:
        questions: A sample a question.
        width: Of the interval, a fraction above 0.
        first: Rounds before the first look, at least 1.
        most: Rounds at most.
    """

    def __init__(self, questions: Sequence[Sample], width: float, first: int, most: int) -> None:
        self._questions = list(questions)
        self._width, self._first, self._most = width, first, most
        self._begin()

    def _begin(self) -> None:
        self._rounds, self._looked = self._first, 0
        self._answers: dict[tuple[str, int], tuple[bool, bool, bool]] = {}

    def initial_samples(self) -> list[Sample]:
        """The questions; the task asks each as often as its epochs say, which is the first rounds."""
        return self._questions

    async def next_samples(self) -> list[Sample] | None:
        """The questions again for some rounds, once all answers of those before are there; None when it is over."""
        counted_lately = any(counted for (_, epoch), (_, counted, _) in self._answers.items() if epoch > self._looked)
        more = min(max(1, self._rounds // GROWTH), self._most - self._rounds)
        if more < 1 or not counted_lately or self._is_narrow():
            return None
        self._looked, self._rounds = self._rounds, self._rounds + more
        for epoch in range(self._looked + 1, self._rounds + 1):
            enqueue_sample(deepcopy(self._questions), epoch=epoch)
        return []

    async def sample_complete(self, sample: EvalSample) -> list[Sample] | None:
        """Keeps whether an answer counts and is misaligned, and whether its question lies outside the domain."""
        if sample.epoch <= self._looked:
            self._begin()  # Inspect runs an evaluation that failed again, and tells its answers once more.
        score = (sample.scores or {}).get(NAME)
        value = score.value if score is not None and isinstance(score.value, dict) else {}
        definition = DEFINITIONS[HEADLINE]
        alignment, coherence = (np.array([value.get(name, np.nan)], dtype="float64") for name in RUBRICS)
        counted = bool(definition.counted(alignment, coherence)[0])
        misaligned = counted and bool(definition.misaligned(alignment, coherence)[0])
        outside = score is None or bool((score.metadata or {}).get(OUTSIDE, True))
        self._answers[(str(sample.id), sample.epoch)] = (misaligned, counted, outside)
        return None

    def _is_narrow(self) -> bool:
        """Whether the interval outside the domain is, or that on all questions where nothing lies outside."""
        some_outside = any(outside for _, _, outside in self._answers.values())
        flags = [(k, n) for k, n, outside in self._answers.values() if outside or not some_outside]
        low, high = confidence_sequence(*(sum(column) for column in zip(*flags, strict=True)))
        return bool(high - low <= self._width)
