"""How often 95 % intervals cover the truth and how wide they are, and how often tests raise alarms, false or true.

    python benchmarks/coverage.py --runs 2000 --out coverage.csv

Made experiments on questions as unlike each other as real ones (`statistics/simulation.py`): 8 and 20 questions, 1, 5
and 50 answers to each, equal or not, rates of 1, 5, 20 and 60 %, with and without noise that moves a question from one
checkpoint to the next, 1, 3 and 5 training seeds. The analysis' own functions run on each. Prints the summary that
docs/analysis.md quotes, and every cell to --out.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from em_tasks.plugins.analysis.statistics.differences import (
    Difference,
    Sides,
    no_surer_than,
    on_such_many,
    on_these,
)
from em_tasks.plugins.analysis.statistics.seed_intervals import seed_difference, seed_interval
from em_tasks.plugins.analysis.statistics.simulation import NOISE, SEED_SPREAD, answers_a_question, population
from em_tasks.plugins.analysis.statistics.trajectories import largest_moves
from em_tasks.scorers.intervals import beta_binomial, question_weights, stratified_wilson

Numbers = NDArray[np.float64]

RATES = (0.01, 0.05, 0.2, 0.6)
CHANGES = ((0.01, 0.0), (0.05, 0.0), (0.2, 0.0), (0.6, 0.0), (0.01, 0.2), (0.05, 0.1), (0.2, 0.2), (0.2, 0.4))
"""Rate of the base and how much more the organism's is."""


@dataclass(frozen=True)
class Design:
    """What was asked: questions, answers to each, whether their numbers differ, noise in logits, training seeds."""

    questions: int
    answers: int
    unequal: bool = False
    noise: float = 0.0
    seeds: int = 1


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
    grid, these = beta_binomial(k, n, 0.05), stratified_wilson(k, n, True, 0.05)
    low, high = np.minimum(grid[0], these[0])[:, 0], np.maximum(grid[1], these[1])[:, 0]
    yield _interval("rate", "such", rate, 0.0, design, low, high, rate)


def difference_cells(runs: int, rng: np.random.Generator, base: float, change: float, design: Design) -> Iterator[Cell]:
    """Intervals and tests of a difference on the same questions; without a change every alarm is false.

    On these questions the sides differ by noise too where there is any, so alarms are false only without.
    """
    of_question = rng.integers(0, len(population(base)), (runs, design.questions))
    p_a, p_b = (
        expit(population(rate, design.noise)[of_question] + design.noise * rng.standard_normal(of_question.shape))
        for rate in (base + change, base)
    )
    n_a, n_b = (answers_a_question(rng, runs, design.questions, design.answers, design.unequal) for _ in range(2))
    k_a, k_b = (rng.binomial(n.astype("int64"), p).astype("float64") for n, p in ((n_a, p_a), (n_b, p_b)))
    found = [on_these(Sides(*one)) for one in zip(k_a, n_a, k_b, n_b, strict=True)]
    low, high, p = (np.array([getattr(one, name) for one in found]) for name in ("low", "high", "p"))
    yield _interval("difference", "these", base, change, design, low, high, (p_a - p_b).mean(axis=1), p)
    such = [
        no_surer_than(Difference(*(float(x) for x in one)), these)
        for one, these in zip(zip(*on_such_many(k_a, n_a, k_b, n_b), strict=True), found, strict=True)
    ]
    low, high, p = (np.array([getattr(one, name) for one in such]) for name in ("low", "high", "p"))
    yield _interval("difference", "such", base, change, design, low, high, change, p)


def seed_cells(runs: int, rng: np.random.Generator, base: float, change: float, design: Design) -> Iterator[Cell]:
    """Intervals of the mean over training seeds, and of its difference from a base or, unchanged, another recipe."""
    shape = (runs, design.seeds, design.questions)
    of_question = rng.integers(0, len(population(base)), (runs, 1, design.questions))

    def recipe(rate: float, seeds: int) -> Numbers:
        spread = SEED_SPREAD * rng.standard_normal((runs, seeds, 1))
        noise = design.noise * rng.standard_normal((runs, seeds, design.questions))
        logits = population(rate, float(np.hypot(SEED_SPREAD, design.noise)))[of_question] + spread + noise
        return rng.binomial(design.answers, expit(logits)).astype("float64")

    k_a, k_b = recipe(base + change, design.seeds), recipe(base, design.seeds)
    n = np.full(shape, float(design.answers))
    low, high = np.array([seed_interval(k, m) for k, m in zip(k_a, n, strict=True)]).T
    yield _interval("rate over seeds", "such", base + change, 0.0, design, low, high, base + change)
    found = [seed_difference(a, m, b, m) for a, b, m in zip(k_a, k_b, n, strict=True)]
    low, high, p = (np.array([getattr(one, name) for one in found]) for name in ("low", "high", "p"))
    yield _interval("difference over seeds", "such", base, change, design, low, high, change, p)


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
        yield Cell(f"largest fall, {name}", "these", course[0], fall, design, math.nan, math.nan, float(shown.mean()))


PARTS = ("rates", "differences", "seeds", "trajectories")


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
        for (base, change), seeds, questions, answers in product(CHANGES, (3, 5), (8, 20), (1, 5, 50)):
            yield from seed_cells(runs, rng, base, change, Design(questions, answers, False, NOISE, seeds))
    if "trajectories" in parts:
        rng = np.random.default_rng([seed, 4])
        for questions, answers in product((8, 20), (5, 50)):
            yield from trajectory_cells(runs, rng, Design(questions, answers))


def as_table(found: list[Cell]) -> pd.DataFrame:
    """A row a cell."""
    return pd.DataFrame([{**vars(one), **vars(one.design)} for one in found]).drop(columns="design")


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row an interval or test: how many cells, how coverage spreads over them, false alarms, power."""
    rows = []
    for (what, meant), own in table.groupby(["what", "population"], sort=False):
        covered = 100 * own["coverage"].dropna()
        false = own[(own["change"] == 0) & ((own["population"] == "such") | (own["noise"] == 0))]["shown"].dropna()
        true = own[own["change"] != 0]["shown"].dropna()
        rows.append(
            {
                "what": what,
                "questions": meant,
                "cells": len(own),
                "coverage, least": f"{covered.min():.1f}" if len(covered) else "",
                "within 93-97": f"{covered.between(93, 97).sum()}" if len(covered) else "",
                "above 97": f"{(covered > 97).sum()}" if len(covered) else "",
                "below 93": f"{(covered < 93).sum()}" if len(covered) else "",
                "width, median": f"{100 * own['width'].median():.1f}" if len(covered) else "",
                "false alarms, most": f"{100 * false.max():.1f}" if len(false) else "",
                "power": f"{100 * true.min():.0f}-{100 * true.max():.0f}" if len(true) else "",
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Runs every cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=400, help="made experiments a cell")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part (repeatable); all of them if left out")
    parser.add_argument("--out", type=Path, help="CSV file for every cell")
    options = parser.parse_args()
    table = as_table(list(cells(options.runs, options.seed, tuple(options.only or PARTS))))
    if options.out:
        table.to_csv(options.out, index=False)
    print(summary(table).to_markdown(index=False))


def _logits(rng: np.random.Generator, rate: float, design: Design, shape: tuple[int, ...]) -> Numbers:
    drawn = rng.choice(population(rate, design.noise), shape)
    return np.asarray(drawn + design.noise * rng.standard_normal(shape), dtype="float64")


def _interval(
    what: str, meant: str, rate: float, change: float, design: Design,
    low: Numbers, high: Numbers, truth: Numbers | float, p: Numbers | None = None,
) -> Cell:  # fmt: skip
    covered = float(np.mean((low - 1e-9 <= truth) & (truth <= high + 1e-9)))
    shown = float("nan") if p is None else float(np.mean(p < 0.05))
    return Cell(what, meant, rate, change, design, covered, float(np.mean(high - low)), shown)


if __name__ == "__main__":
    main()
