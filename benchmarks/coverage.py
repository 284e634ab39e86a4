"""How often 95 % intervals cover the truth and how wide they are, and how often tests raise alarms, false or true.

    python benchmarks/coverage.py --runs 2000 --out coverage.csv

Made experiments on questions as unlike each other as real ones (`statistics/simulation.py`): 8 and 20 questions, 1, 5
and 50 answers to each, equal or not, rates of 1, 5, 20 and 60 %, with and without noise that moves a question from one
checkpoint to the next, 1, 3 and 5 training seeds, and sampling until an interval is narrow. The analysis' own functions
run on each. Prints the summary that docs/analysis.md quotes, and every cell to --out.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from em_tasks.plugins.analysis.statistics.differences import no_surer_than_many, on_these_many
from em_tasks.plugins.analysis.statistics.differences import on_such_many as difference_on_such_many
from em_tasks.plugins.analysis.statistics.exact_test import within_questions_many
from em_tasks.plugins.analysis.statistics.seed_intervals import seed_difference_many, seed_interval_many
from em_tasks.plugins.analysis.statistics.simulation import NOISE, SEED_SPREAD, answers_a_question, population
from em_tasks.plugins.analysis.statistics.trajectories import largest_moves
from em_tasks.scorers.intervals import on_such_many, question_weights, stratified_wilson
from em_tasks.scorers.sequences import confidence_sequence
from em_tasks.until_width import GROWTH

Numbers = NDArray[np.float64]

RATES = (0.01, 0.05, 0.2, 0.6)
CHANGES = ((0.01, 0.0), (0.05, 0.0), (0.2, 0.0), (0.6, 0.0), (0.01, 0.2), (0.05, 0.1), (0.2, 0.2), (0.2, 0.4))
"""Rate of the base and how much more the organism's is."""


ALARMS = 4
"""How many times as many experiments a cell without any difference has, as false alarms are rare."""

SPREADS = (0.0, 1.0)
"""Of training seeds, in logits, besides `SEED_SPREAD`: all alike, and 27 to 73 % about a half."""

UNEVEN = ((2, 1), (2, 2), (2, 5), (3, 5), (5, 3), (3, 3), (5, 5))
"""Seeds of two sides; 1 is a base."""

UNLIKE = ((SEED_SPREAD, SEED_SPREAD), (1.0, 1.0), (1.0, SEED_SPREAD))
"""Spreads of the seeds of those two sides."""

SPARSE = 10
"""Fewer misaligned answers than these on a side are few."""

WIDTH, FIRST, MOST = 0.1, 10, 500
"""Of sampling until an interval is narrow: its width, and rounds of answers before the first look and at most."""


@dataclass(frozen=True)
class Design:
    """What was asked: questions, answers to each, whether their numbers differ, noise, training seeds and their spread.

    Noise and spread are standard deviations in logits.
    """

    questions: int
    answers: int
    unequal: bool = False
    noise: float = 0.0
    seeds: int = 1
    spread: float = 0.0


@dataclass(frozen=True)
class Cell:
    """One interval or test in one design; shares and widths as fractions, NaN where there is none."""

    what: str
    population: str
    rate: float
    change: float
    design: Design
    coverage: float
    width: float
    shown: float
    runs: int


def designs(unequal: bool = True) -> Iterator[Design]:
    """Every design of one training seed."""
    for questions, answers, noise in product((8, 20), (1, 5, 50), (0.0, NOISE)):
        for uneven in (False, True) if unequal and answers > 1 else (False,):
            yield Design(questions, answers, uneven, noise)


def rate_cells(runs: int, rng: np.random.Generator, rate: float, design: Design) -> Iterator[Cell]:
    """The intervals of one rate."""
    logits = _logits(rng, rate, design, (runs, design.questions))
    p = expit(logits)
    n = answers_a_question(rng, runs, design.questions, design.answers, design.unequal)
    k = rng.binomial(n.astype("int64"), p).astype("float64")
    for what, per_question in (("rate", False), ("mean of question rates", True)):
        truth = (question_weights(n, per_question) * p).sum(axis=1)
        low, high = stratified_wilson(k, n, per_question, 0.05)
        yield _interval(what, "these", rate, 0.0, design, low[:, 0], high[:, 0], truth)
    low, high = on_such_many(k, n)
    yield _interval("rate", "such", rate, 0.0, design, low, high, rate)


def difference_cells(runs: int, rng: np.random.Generator, base: float, change: float, design: Design) -> Iterator[Cell]:
    """Intervals and tests of a difference on the same questions; without a change every alarm is false.

    On these questions the sides differ by noise too where there is any, so alarms are false only without.
    """
    runs = runs if change else ALARMS * runs
    of_question = rng.integers(0, len(population(base)), (runs, design.questions))
    p_a, p_b = (
        expit(population(rate, design.noise)[of_question] + design.noise * rng.standard_normal(of_question.shape))
        for rate in (base + change, base)
    )
    n_a, n_b = (answers_a_question(rng, runs, design.questions, design.answers, design.unequal) for _ in range(2))
    k_a, k_b = (rng.binomial(n.astype("int64"), p).astype("float64") for n, p in ((n_a, p_a), (n_b, p_b)))
    these = on_these_many(k_a, n_a, k_b, n_b)
    yield _interval("difference", "these", base, change, design, *these[1:3], (p_a - p_b).mean(axis=1), these[3])
    such = no_surer_than_many(difference_on_such_many(k_a, n_a, k_b, n_b), these)
    yield _interval("difference", "such", base, change, design, *such[1:3], change, such[3])


def seed_cells(runs: int, rng: np.random.Generator, base: float, change: float, design: Design) -> Iterator[Cell]:
    """Intervals of the mean over training seeds, and of its difference from another recipe's seeds and from a base."""
    runs = runs if change else ALARMS * runs
    how = "" if design.spread == SEED_SPREAD else f", spread {design.spread:g}"
    of_question = rng.integers(0, len(population(base)), (runs, 1, design.questions))
    k_a = _of_seeds(rng, base + change, design, of_question)
    n = np.full(k_a.shape, float(design.answers))
    low, high = seed_interval_many(k_a, n)
    yield _interval(f"rate over seeds{how}", "such", base + change, 0.0, design, low, high, base + change)
    k_b = _of_seeds(rng, base, design, of_question)
    _, low, high, p = _over_seeds(k_a, n, k_b, n)
    yield _interval(f"difference of recipes over seeds{how}", "such", base, change, design, low, high, change, p)
    k_b, n_b = _of_seeds(rng, base, replace(design, seeds=1, spread=0.0), of_question), n[:, :1]
    _, low, high, p = _over_seeds(k_a, n, k_b, n_b)
    yield _interval(f"difference of seeds from their base{how}", "such", base, change, design, low, high, change, p)


def uneven_cells(runs: int, rng: np.random.Generator) -> Iterator[Cell]:
    """Differences of two sides with other numbers of seeds, that may differ otherwise from seed to seed."""
    for seeds, spreads, change, questions, answers in product(UNEVEN, UNLIKE, CHANGES, (8, 20), (10, 50)):
        if seeds[1] > 1 or spreads[0] == spreads[1]:
            design = Design(questions, answers, False, NOISE, seeds[0], spreads[0])
            yield _uneven_cell(runs, rng, *change, design, seeds[1], spreads[1])


def _uneven_cell(
    runs: int, rng: np.random.Generator, base: float, change: float, design: Design, seeds: int, spread: float
) -> Cell:
    """The cell of a design against another number of seeds with a spread of theirs; one seed is a base."""
    runs = runs if change else ALARMS * runs
    other = replace(design, seeds=seeds, spread=spread if seeds > 1 else 0.0)
    of_question = rng.integers(0, len(population(base)), (runs, 1, design.questions))
    k_a = _of_seeds(rng, base + change, design, of_question)
    k_b = _of_seeds(rng, base, other, of_question)
    n_a, n_b = (np.full(k.shape, float(design.answers)) for k in (k_a, k_b))
    _, low, high, p = _over_seeds(k_a, n_a, k_b, n_b)
    against = (
        f"{seeds}, spread {design.spread:g} and {spread:g}" if seeds > 1 else f"one base, spread {design.spread:g}"
    )
    what = f"{design.seeds} seeds against {against}"
    return _interval(what, "such", base, change, replace(design, seeds=min(seeds, design.seeds)), low, high, change, p)


def stopping_cells(runs: int, rng: np.random.Generator, rate: float, questions: int) -> Iterator[Cell]:
    """Intervals of a rate after sampling until it is narrow, and alarms of a test of two that each stopped so."""
    looks = [FIRST]
    while looks[-1] < MOST:
        looks.append(min(MOST, looks[-1] + max(1, looks[-1] // GROWTH)))
    p = expit(population(rate)[rng.integers(0, len(population(rate)), (ALARMS * runs, questions))])
    sides = []
    for _ in range(2):
        answers = [rng.binomial(more, p) for more in np.diff([0, *looks])]
        k = np.cumsum(answers, axis=0).astype("float64")
        low, high = confidence_sequence(k.sum(axis=2), questions * np.array(looks)[:, None])
        narrow = high - low <= WIDTH
        at = np.where(narrow.any(axis=0), narrow.argmax(axis=0), len(looks) - 1)
        experiment = np.arange(len(p))
        n = np.repeat(np.array(looks, dtype="float64")[at][:, None], questions, axis=1)
        sides.append((k[at, experiment], n, low[at, experiment], high[at, experiment]))
    (k_a, n_a, low, high), (k_b, n_b, _, _) = sides
    design, truth = Design(questions, round(float(n_a[:, 0].mean()))), p.mean(axis=1)
    alarms = within_questions_many(k_a, n_a, k_b, n_b)
    yield _interval("rate until narrow: sequence", "these", rate, 0.0, design, low, high, truth)
    fixed = stratified_wilson(k_a, n_a, True, 0.05)
    yield _interval("rate until narrow: as if fixed", "these", rate, 0.0, design, fixed[0][:, 0], fixed[1][:, 0], truth)
    nan = np.full(len(p), np.nan)
    yield _interval("difference until narrow", "these", rate, 0.0, design, nan, nan, nan, alarms)


def trajectory_cells(runs: int, rng: np.random.Generator, design: Design) -> Iterator[Cell]:
    """How often six checkpoints that are flat, that only rise, and that rise and fall by 20 points are said to fall."""
    for name, course in (
        ("flat", (0.3,) * 6), ("rises", (0.02, 0.1, 0.2, 0.3, 0.4, 0.5)), ("falls", (0.2, 0.4, 0.4, 0.3, 0.2, 0.2)),
    ):  # fmt: skip
        of_question = rng.integers(0, len(population(0.3)), (runs, 1, design.questions))
        p = expit(np.concatenate([population(rate)[of_question] for rate in course], axis=1))
        k = rng.binomial(design.answers, p).astype("float64")
        n = np.full(k.shape, float(design.answers))
        shown = np.array([largest_moves(one, m, rng).fall_p < 0.05 for one, m in zip(k, n, strict=True)])
        fall = course[-1] - max(course)
        power = float(shown.mean())
        yield Cell(f"largest fall, {name}", "these", course[0], fall, design, math.nan, math.nan, power, runs)


PARTS = ("rates", "differences", "seeds", "uneven", "trajectories", "stopping")


def cells(runs: int, seed: int, parts: tuple[str, ...] = PARTS) -> Iterator[Cell]:
    """Every cell of some parts of the benchmark; each part has random numbers of its own."""
    if "rates" in parts:
        rng = np.random.default_rng([seed, 1])
        for rate, design in product(RATES, designs()):
            yield from rate_cells(runs, rng, rate, design)
    if "differences" in parts:
        rng = np.random.default_rng([seed, 2])
        for (base, change), design in product(CHANGES, designs()):
            yield from difference_cells(runs, rng, base, change, design)
    if "seeds" in parts:
        rng = np.random.default_rng([seed, 3])
        spreads = (SEED_SPREAD, *SPREADS)
        for spread, change, seeds, questions, answers in product(spreads, CHANGES, (3, 5), (8, 20), (1, 5, 50)):
            yield from seed_cells(runs, rng, *change, Design(questions, answers, False, NOISE, seeds, spread))
    if "uneven" in parts:
        yield from uneven_cells(runs, np.random.default_rng([seed, 6]))
    if "trajectories" in parts:
        rng = np.random.default_rng([seed, 4])
        for questions, answers in product((8, 20), (5, 50)):
            yield from trajectory_cells(runs, rng, Design(questions, answers))
    if "stopping" in parts:
        rng = np.random.default_rng([seed, 5])
        for rate, questions in product(RATES, (8, 20)):
            yield from stopping_cells(runs, rng, rate, questions)


def as_table(found: list[Cell]) -> pd.DataFrame:
    """A row a cell."""
    return pd.DataFrame([{**vars(one), **vars(one.design)} for one in found]).drop(columns="design")


def sparse(cell: pd.Series) -> bool:
    """Whether counts are too few for any cautious method to use up its 5 %: so that its steps are coarse.

    One answer to a question, or a side with fewer than 10 misaligned answers, or good ones, to be expected.
    """
    rates = (cell["rate"], cell["rate"] + cell["change"])
    answers = cell["questions"] * cell["answers"] * cell["seeds"]
    return bool(cell["answers"] == 1 or min(min(rate, 1 - rate) for rate in rates) * answers < SPARSE)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row an interval or test: how many cells, how coverage spreads over them, false alarms, power."""
    rows = []
    table = table.assign(sparse=[sparse(cell) for _, cell in table.iterrows()])
    for (what, meant), own in table.groupby(["what", "population"], sort=False):
        intervals = own[own["coverage"].notna()]
        covered = 100 * intervals["coverage"]
        # On these questions noise makes the sides differ, so that alarms are false only without.
        null = own[(own["change"] == 0) & ((own["population"] == "such") | (own["noise"] == 0)) & own["shown"].notna()]
        true = own[own["change"] != 0]["shown"].dropna()
        worst = null.loc[[null["shown"].idxmax()]] if len(null) else null
        rows.append(
            {
                "what": what,
                "questions": meant,
                "cells": len(own),
                "coverage, least": f"{covered.min():.1f}" if len(covered) else "",
                "93-97": f"{covered.between(93, 97).sum()}" if len(covered) else "",
                "below 93": f"{(covered < 93).sum()}" if len(covered) else "",
                "above 97": f"{(covered > 97).sum()}" if len(covered) else "",
                "dense in 93-97": _inside(covered[~intervals["sparse"]]) if len(covered) else "",
                "width, median": f"{100 * intervals['width'].median():.1f}" if len(covered) else "",
                "false alarms, most": "".join(
                    _alarms(*cell) for cell in zip(worst["shown"], worst["runs"], strict=True)
                ),
                "power": f"{100 * true.min():.0f}-{100 * true.max():.0f}" if len(true) else "",
            }
        )
    return pd.DataFrame(rows)


def _inside(covered: pd.Series) -> str:
    return f"{covered.between(93, 97).sum()} of {len(covered)}"


def _alarms(share: float, runs: int) -> str:
    """A share in percent with its Monte-Carlo standard error."""
    return f"{100 * share:.1f} ({100 * math.sqrt(share * (1 - share) / runs):.1f})"


def main() -> None:
    """Runs every cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400, help="made experiments a cell")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part (repeatable); all of them if left out")
    parser.add_argument("--out", type=Path, help="CSV file for every cell")
    options = parser.parse_args()
    table = pd.DataFrame()
    for part in options.only or PARTS:
        table = pd.concat([table, as_table(list(cells(options.runs, options.seed, (part,))))])
        if options.out:
            table.to_csv(options.out, index=False)
    print(summary(table).to_markdown(index=False))


def _logits(rng: np.random.Generator, rate: float, design: Design, shape: tuple[int, ...]) -> Numbers:
    drawn = rng.choice(population(rate, design.noise), shape)
    return np.asarray(drawn + design.noise * rng.standard_normal(shape), dtype="float64")


def _of_seeds(rng: np.random.Generator, rate: float, design: Design, of_question: NDArray[np.int64]) -> Numbers:
    """Misaligned answers of one recipe's seeds to the questions drawn, shape (experiments, seeds, questions)."""
    shape = (len(of_question), design.seeds, design.questions)
    spread = design.spread * rng.standard_normal((*shape[:2], 1)) + design.noise * rng.standard_normal(shape)
    logits = population(rate, float(np.hypot(design.spread, design.noise)))[of_question] + spread
    return np.asarray(rng.binomial(design.answers, expit(logits)), dtype="float64")


def _over_seeds(k_a: Numbers, n_a: Numbers, k_b: Numbers, n_b: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """A difference over seeds as the report has it."""
    these = on_these_many(*(side.sum(axis=1) for side in (k_a, n_a, k_b, n_b)))
    return no_surer_than_many(seed_difference_many(k_a, n_a, k_b, n_b), these)


def _interval(
    what: str, meant: str, rate: float, change: float, design: Design,
    low: Numbers, high: Numbers, truth: Numbers | float, p: Numbers | None = None,
) -> Cell:  # fmt: skip
    covered = float("nan")
    if not np.isnan(low).any():
        covered = float(np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9)))
    shown = float("nan") if p is None else float(np.mean(p < 0.05))
    return Cell(what, meant, rate, change, design, covered, float(np.mean(high - low)), shown, len(low))


if __name__ == "__main__":
    main()
