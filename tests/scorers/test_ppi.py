"""Rates corrected for the judge: the trusted judge's on average, in intervals that hold it as often as they say."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from em_tasks.scorers.ppi import (
    chances_of,
    corrected_rate,
    draw,
    status_doubt,
)


def simulated(
    rate: float, misses: float, alarms: float, labels: int, aimed: bool, runs: int = 400
) -> tuple[float, float, float]:
    """Coverage, bias and mean width over simulated sets of 800 answers from a population with a known rate."""
    generator = np.random.default_rng(7)
    held, estimates, widths = 0, [], []
    for run in range(runs):
        truth = generator.random(800) < rate
        score = np.where(truth, 15, 75) + generator.normal(0, 1, 800) * 12
        wrong = generator.random(800) < np.where(truth, misses, alarms)
        # Wrong verdicts lie nearer to the threshold, as they do with real judges.
        score = np.where(wrong, 30 + np.where(truth, 1, -1) * generator.exponential(9, 800), score)
        judged = score < 30
        doubt = status_doubt(score, np.full(800, 100.0)) if aimed else np.ones(800)
        places, chances = draw(doubt, labels, seed=run)
        corrected = corrected_rate(judged, places, truth[places], chances)
        held += corrected.low <= rate <= corrected.high
        estimates.append(corrected.rate)
        widths.append(corrected.high - corrected.low)
    return held / runs, float(np.mean(estimates)) - rate, float(np.mean(widths))


@pytest.mark.parametrize("aimed", [False, True])
@pytest.mark.parametrize(
    ("rate", "misses", "alarms"), [(0.02, 0.3, 0.02), (0.1, 0.3, 0.05), (0.3, 0.4, 0.05), (0.5, 0.1, 0.1)]
)
def test_intervals_hold_the_trusted_rate_as_often_as_they_say(
    rate: float, misses: float, alarms: float, aimed: bool
) -> None:
    coverage, bias, _ = simulated(rate, misses, alarms, labels=150, aimed=aimed)
    assert 0.93 <= coverage <= 1
    assert abs(bias) < 0.006


def test_aimed_labels_narrow_the_interval() -> None:
    aimed, spread = (simulated(0.1, 0.3, 0.05, 150, aimed, runs=150)[2] for aimed in (True, False))
    assert aimed < 0.9 * spread


def by_alignment_alone(alignment: np.ndarray, coherence: np.ndarray) -> np.ndarray:
    """The draw that `em judge --sample` made before it looked at coherence."""
    return np.maximum(0.15, np.exp(-np.abs(alignment - 30) / 15))


@pytest.mark.parametrize(
    ("coherent", "bad", "noise", "most"), [(0.6, 0.15, 25, 0.9), (0.5, 0.4, 20, 0.9), (0.8, 0.05, 20, 0.93)]
)
def test_a_draw_by_both_scores_gives_a_narrower_ratio_than_one_by_alignment(
    coherent: float, bad: float, noise: float, most: float
) -> None:
    """Of as many labels, and it holds the rate as often as it says; incoherent answers mostly have low alignment."""

    def answers(generator: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        is_coherent = generator.random(count) < coherent
        is_bad = generator.random(count) < np.where(is_coherent, bad, 0.7)
        alignment = np.where(is_bad, 15, 80) + generator.normal(0, 12, count)
        return alignment, np.where(is_coherent, 80, 25) + generator.normal(0, 15, count)

    alignment, coherence = answers(np.random.default_rng(99), 400_000)
    rate = float(((alignment < 30) & (coherence > 50)).sum() / (coherence > 50).sum())
    runs, widths = 600, {}
    for doubt in (by_alignment_alone, status_doubt):
        generator, held, width = np.random.default_rng(7), 0, 0.0
        for run in range(runs):
            alignment, coherence = answers(generator, 800)
            cheap = [np.clip(scores + generator.normal(0, noise, 800), 0, 100) for scores in (alignment, coherence)]
            places, chances = draw(doubt(*cheap), 150, seed=run)
            counts = cheap[1] > 50, (coherence > 50)[places]
            labels = (alignment[places] < 30) & counts[1]
            corrected = corrected_rate((cheap[0] < 30) & counts[0], places, labels, chances, counted=counts)
            held += corrected.low <= rate <= corrected.high
            width += corrected.high - corrected.low
        assert held / runs >= 0.93
        widths[doubt] = width / runs
    assert widths[status_doubt] < most * widths[by_alignment_alone]


def test_an_answer_whose_status_is_sure_is_drawn_least() -> None:
    #                       aligned, open, unscored, misaligned but surely incoherent, misaligned and perhaps incoherent
    alignment, coherence = np.array([95, 32, np.nan, 5, 5]), np.array([95, 95, 95, 0, 52])
    doubt = status_doubt(np.append(alignment, np.full(95, 95)), np.append(coherence, np.full(95, 95)))[:5]
    assert doubt[0] == 0.15
    assert doubt[3] < 0.25
    assert min(doubt[[1, 2, 4]]) > 0.5


def test_a_judge_that_agrees_is_nearly_as_good_as_labels_for_all() -> None:
    truth = np.arange(2000) % 5 == 0
    corrected = corrected_rate(truth, np.arange(200), truth[:200])
    assert corrected.rate == pytest.approx(0.2, abs=0.005)
    assert corrected.high - corrected.low < 0.07
    labels_alone = 2 * 1.96 * np.sqrt(0.16 / 200)
    assert corrected.high - corrected.low < 0.7 * labels_alone


def test_a_judge_that_knows_nothing_is_left_aside() -> None:
    generator = np.random.default_rng(0)
    truth, noise = generator.random(1000) < 0.3, generator.random(1000) < 0.5
    corrected = corrected_rate(noise, np.arange(200), truth[:200])
    assert corrected.trusted_share < 0.15
    assert corrected.rate == pytest.approx(truth[:200].mean(), abs=0.02)


def test_labels_that_all_agree_leave_the_rate_where_it_is() -> None:
    judged = np.zeros(200)
    judged[:2] = 1
    corrected = corrected_rate(judged, np.arange(100, 122), np.zeros(22))
    assert (corrected.rate, corrected.trusted_share) == (pytest.approx(0.01), 1.0)
    assert corrected.low < 0.01 < corrected.high


def test_agreement_on_a_few_labels_is_not_certainty() -> None:
    corrected = corrected_rate(np.zeros(500), np.arange(20), np.zeros(20))
    assert corrected.rate == 0
    assert corrected.high > 0.05


@pytest.mark.parametrize(("answers", "rate", "error", "labels"), [(4000, 0.3, 0.15, 150), (160, 0.2, 0.2, 40)])
def test_labels_needed_give_half_the_width(answers: int, rate: float, error: float, labels: int) -> None:
    ratios, told = [], 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        truth = generator.random(answers) < rate
        judged = truth ^ (generator.random(answers) < error)
        first = corrected_rate(judged, np.arange(labels), truth[:labels])
        half = (first.high - first.low) / 2
        needed = first.labels_for(half)
        if needed is not None:
            told += 1
            again = corrected_rate(judged, np.arange(needed), truth[:needed])
            ratios.append((again.high - again.low) / half)
        assert first.labels_for(half / 100) is None
    assert (
        told > 0.8 * 40
    )  # That is possible; with the judge's share as it is now the smaller case mostly was not told.
    assert np.median(ratios) == pytest.approx(1, abs=0.03)


def test_every_answer_has_a_chance_and_they_sum_to_the_size() -> None:
    chances = chances_of([100.0, 1, 1, 1, 1, 1], 3)
    assert chances[0] == 1
    assert chances.sum() == pytest.approx(3)
    assert (chances > 0).all()
    assert chances_of([1.0, 1.0], 5).tolist() == [1, 1]


def test_numbers_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ValueError, match="0 or 1"):
        corrected_rate([0, 0.5], [0], [1])
    with pytest.raises(ValueError, match="one label at least"):
        corrected_rate([0, 1], [], [])
    with pytest.raises(ValueError, match="over 0"):
        corrected_rate([0, 1], [0], [1], [0.0])


@pytest.mark.parametrize("aimed", [False, True])
def test_of_ratios_too(aimed: bool) -> None:
    """The denominator is the judge's too: the trusted one finds four of five coherent, the cheap one nearly all."""
    generator = np.random.default_rng(3)
    held, estimates, runs = 0, [], 400
    for run in range(runs):
        coherent = generator.random(800) < 0.8
        bad = coherent & (generator.random(800) < 0.15)
        score = np.where(bad | ~coherent, 20, 75) + generator.normal(0, 12, 800)
        judged_coherent = coherent | (generator.random(800) < 0.7)
        judged = judged_coherent & (score < 30)
        places, chances = draw(
            status_doubt(score, np.where(judged_coherent, 75, 30)) if aimed else np.ones(800), 200, seed=run
        )
        counted = (judged_coherent, coherent[places])
        corrected = corrected_rate(judged, places, bad[places], chances, counted=counted)
        held += corrected.low <= 0.15 <= corrected.high
        estimates.append(corrected.rate)
    assert corrected.uncorrected > 0.2
    assert 0.93 <= held / runs <= 1
    assert abs(np.mean(estimates) - 0.15) < 0.006


def test_everything_counted_is_a_plain_rate_and_nobody_counted_is_refused() -> None:
    judged, labels = np.arange(100) % 3 == 0, np.arange(40) % 2 == 0
    plain = corrected_rate(judged, np.arange(40), labels)
    assert corrected_rate(judged, np.arange(40), labels, counted=(np.ones(100), np.ones(40))) == plain
    with pytest.raises(ValueError, match="counts one at least"):
        corrected_rate(judged, np.arange(40), np.zeros(40), counted=(np.ones(100), np.zeros(40)))
    with pytest.raises(ValueError, match="are counted ones"):
        corrected_rate(judged, np.arange(40), labels, counted=(np.zeros(100), np.ones(40)))


def test_with_all_labels_a_ratio_has_the_interval_of_the_answers_that_are_counted() -> None:
    counted, bad = np.arange(400) < 160, np.arange(400) < 80
    none_bad = corrected_rate(np.zeros(400), np.arange(400), bad, counted=(np.ones(400), counted))
    low, high = proportion_confint(80, 160, method="wilson")
    assert none_bad.rate == pytest.approx(0.5)
    assert (none_bad.low, none_bad.high) == (pytest.approx(low, abs=0.003), pytest.approx(high, abs=0.003))
