"""The power of a design before anything is spent: made experiments, put to the report's own tests."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from em_tasks.plugins.analysis.statistics.differences import ALPHA, no_surer_than_many, on_such_many, on_these_many
from em_tasks.plugins.analysis.statistics.simulation import NOISE, answers_a_question, population

SEED = 2881


@dataclass(frozen=True)
class Power:
    """How often one organism's difference from its base would be shown by a design.

    Attributes:
        questions: Questions outside the domain.
        samples: Answers to each, of the organism and of its base.
        these: Share of made experiments in which it is shown on these questions, 0-1.
        such: The same on such questions.
        width: Mean width of the 95 % interval of the difference on such questions, a fraction.
    """

    questions: int
    samples: int
    these: float
    such: float
    width: float


def power_of(
    base_rate: float, effect: float, questions: int, samples: int, organisms: int = 1, runs: int = 300
) -> Power:
    """Simulates a design; questions differ as real ones do, and from checkpoint to checkpoint besides (`simulation`).

    Args:
        base_rate: The base's rate, above 0, a fraction.
        effect: How much higher the organism's rate is.
        questions: Questions outside the domain, each with one form.
        samples: Answers to each question.
        organisms: Organisms in the primary family; each p-value is multiplied by their number, as is the smallest of
            them in Holm's correction.
        runs: Made experiments.
    """
    rng = np.random.default_rng(SEED)
    of_question = rng.integers(0, len(population(base_rate)), (runs, questions))
    n = answers_a_question(rng, runs, questions, samples, unequal=False)
    k_a, k_b = (
        rng.binomial(
            samples, expit(population(rate, NOISE)[of_question] + NOISE * rng.standard_normal(of_question.shape))
        ).astype("float64")
        for rate in (base_rate + effect, base_rate)
    )
    these = on_these_many(k_a, n, k_b, n)
    effects, low, high, p_such = no_surer_than_many(on_such_many(k_a, n, k_b, n), these)
    on_these_questions, on_such_questions = (
        float(np.mean((p * organisms < ALPHA) & (effects > 0))) for p in (these[3], p_such)
    )
    return Power(questions, samples, on_these_questions, on_such_questions, float(np.mean(high - low)))
