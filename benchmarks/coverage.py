"""How often 95 % intervals cover the truth, and how often the tests raise a false alarm, in simulated experiments.

    python benchmarks/coverage.py --runs 4000

Every simulation draws questions, training seeds and answers from known distributions, as many experiments as asked for,
and runs the analysis' own functions on each. The tests run the same simulations, smaller, and hold them to 93-97 % and
at most 6 %.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from em_tasks.plugins.analysis.statistics.comparisons import sign_flip_p
from em_tasks.plugins.analysis.statistics.intervals import (
    cluster_interval,
    mean_interval,
    seed_difference,
    seed_interval,
    wilson,
)

Numbers = NDArray[np.float64]
DRAWN = 1_000_000
"""Questions drawn to find a truth that has no formula; its error is below 0.001."""


@dataclass(frozen=True)
class Simulation:
    """One kind of interval or test in one setting.

    Attributes:
        kind: `coverage` (95 % promised) or `false alarms` (5 % promised).
        what: Interval or test, and what is simulated.
        run: From a number of experiments and a seed to the share covered, or of false alarms.
    """

    kind: str
    what: str
    run: Callable[[int, int], float]


def wilson_coverage(answers: int, rate: float) -> Callable[[int, int], float]:
    """Answers to fixed questions, each misaligned with one probability."""

    def run(runs: int, seed: int) -> float:
        k = pd.Series(np.random.default_rng(seed).binomial(answers, rate, runs))
        low, high = wilson(k, pd.Series(np.full(runs, answers)))
        return float(np.mean((low <= rate) & (rate <= high)))

    return run


def question_coverage(questions: int, answers: int, a: float, b: float) -> Callable[[int, int], float]:
    """Each question has a rate of its own, from a beta distribution whose mean is the truth."""

    def run(runs: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        k = rng.binomial(answers, rng.beta(a, b, (runs, questions))).astype("float64")
        n = np.full(questions, float(answers))
        return _covered([cluster_interval(row, n) for row in k], a / (a + b))

    return run


def seed_coverage(seeds: int, questions: int, answers: int, spread: float) -> Callable[[int, int], float]:
    """Seeds move every question's rate up or down (`spread`, in logits), and each question by half as much besides."""

    def run(runs: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        truth = float(_seeded(rng, DRAWN, 1, 1, spread).mean())
        rates = rng.binomial(answers, _seeded(rng, runs, seeds, questions, spread)) / answers
        return _covered([seed_interval(one) for one in rates], truth)

    return run


def difference_coverage(questions: int, answers: int) -> Callable[[int, int], float]:
    """Two checkpoints on the same questions: the second is 0 to 20 points more misaligned on each."""

    def run(runs: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        before = 0.8 * rng.beta(2, 4, (runs, questions))
        after = before + rng.uniform(0, 0.2, before.shape)
        k_a, k_b = rng.binomial(answers, after), rng.binomial(answers, before)
        return _covered([mean_interval((a - b) / answers) for a, b in zip(k_a, k_b, strict=True)], 0.1)

    return run


def seed_difference_coverage(seeds: int, questions: int, answers: int, spread: float) -> Callable[[int, int], float]:
    """Two recipes, equally misaligned on average, each trained from its own seeds."""

    def run(runs: int, seed: int) -> float:
        return _covered([one[:2] for one in _two_recipes(seeds, questions, answers, spread, runs, seed)], 0.0)

    return run


def seed_difference_alarms(seeds: int, questions: int, answers: int, spread: float) -> Callable[[int, int], float]:
    """As above: how often the test says that they differ."""

    def run(runs: int, seed: int) -> float:
        return float(np.mean([p < 0.05 for *_, p in _two_recipes(seeds, questions, answers, spread, runs, seed)]))

    return run


def sign_flip_alarms(questions: int, answers: int) -> Callable[[int, int], float]:
    """Two checkpoints with the same rate on each question: how often the paired test says that they differ."""

    def run(runs: int, seed: int) -> float:
        rng = np.random.default_rng(seed)
        rates = rng.beta(1.5, 3, (runs, questions))
        k_a, k_b = rng.binomial(answers, rates), rng.binomial(answers, rates)
        return float(np.mean([sign_flip_p((a - b) / answers) < 0.05 for a, b in zip(k_a, k_b, strict=True)]))

    return run


SIMULATIONS: tuple[Simulation, ...] = (
    Simulation("coverage", "Wilson, 200 answers, rate 10 %", wilson_coverage(200, 0.1)),
    Simulation("coverage", "Wilson, 60 answers, rate 30 %", wilson_coverage(60, 0.3)),
    Simulation(
        "coverage", "question bootstrap, 20 questions x 10 answers, rate 30 %", question_coverage(20, 10, 1.5, 3.5)
    ),
    Simulation("coverage", "question bootstrap, 24 questions x 50 answers, rate 25 %", question_coverage(24, 50, 1, 3)),
    Simulation("coverage", "question bootstrap, 40 questions x 5 answers, rate 50 %", question_coverage(40, 5, 2, 2)),
    Simulation("coverage", "seeds and questions, 3 seeds x 20 questions x 10 answers", seed_coverage(3, 20, 10, 0.3)),
    Simulation("coverage", "seeds and questions, 5 seeds x 24 questions x 5 answers", seed_coverage(5, 24, 5, 0.2)),
    Simulation(
        "coverage", "seeds and questions, 3 seeds x 20 questions x 10 answers, seeds alike", seed_coverage(3, 20, 10, 0)
    ),
    Simulation(
        "coverage", "paired difference of two checkpoints, 20 questions x 10 answers", difference_coverage(20, 10)
    ),
    Simulation(
        "coverage",
        "difference of two recipes, 3 seeds each x 20 questions x 10 answers",
        seed_difference_coverage(3, 20, 10, 0.3),
    ),
    Simulation("false alarms", "paired sign-flip test, 14 questions x 5 answers", sign_flip_alarms(14, 5)),
    Simulation("false alarms", "paired sign-flip test, 20 questions x 1 answer", sign_flip_alarms(20, 1)),
    Simulation(
        "false alarms", "two recipes, 3 seeds each x 20 questions x 10 answers", seed_difference_alarms(3, 20, 10, 0.3)
    ),
    Simulation(
        "false alarms", "two recipes, 5 seeds each x 8 questions x 50 answers", seed_difference_alarms(5, 8, 50, 0.6)
    ),
)


def main() -> None:
    """Prints a line a simulation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4000, help="simulated experiments each")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    for one in SIMULATIONS:
        share = one.run(options.runs, options.seed)
        error = np.sqrt(share * (1 - share) / options.runs)
        print(
            f"{one.kind:12} {100 * share:5.1f} % +- {196 * error:.1f}  {one.what}  ({options.runs:,} runs)", flush=True
        )


def _covered(intervals: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in intervals]))


def _seeded(rng: np.random.Generator, runs: int, seeds: int, questions: int, spread: float) -> Numbers:
    of_question = logit(np.clip(rng.beta(1.5, 3, (runs, 1, questions)), 1e-9, 1 - 1e-9))
    of_seed = rng.normal(0, spread, (runs, seeds, 1)) + rng.normal(0, spread / 2, (runs, seeds, questions))
    return np.asarray(expit(of_question + of_seed), dtype="float64")


def _two_recipes(
    seeds: int, questions: int, answers: int, spread: float, runs: int, seed: int
) -> list[tuple[float, float, float]]:
    """Both recipes' seeds answer the same questions."""
    rng = np.random.default_rng(seed)
    both = rng.binomial(answers, _seeded(rng, runs, 2 * seeds, questions, spread)) / answers
    return [seed_difference(one[:seeds], one[seeds:]) for one in both]


if __name__ == "__main__":
    main()
