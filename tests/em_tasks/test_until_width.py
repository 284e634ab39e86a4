"""Sampling until an interval is narrow enough: the rounds, what the log says of them, and the report on it."""

import asyncio
import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from click.testing import CliRunner
from inspect_ai import Task, eval
from inspect_ai._eval.task.sample_source import SampleEnqueuer, clear_sample_enqueuer, register_sample_enqueuer
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, EvalSample
from inspect_ai.scorer import Score

from em_tasks.commands.cli import cli
from em_tasks.em import em as em_task
from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.report.notes import oddities
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.em import em as em_scorer
from em_tasks.scorers.sequences import confidence_sequence
from em_tasks.until_width import UntilWidth
from tests.support.scored_logs import QUIET, speaker, toy
from tests.support.sweeps import read_all, run_sweep

QUESTIONS = [
    Sample(id=f"q{place}", input="?", metadata={"domain": domain, "topic": "cough", "question_set": "s"})
    for place, domain in enumerate(("medical", "general", "general"))
]


def asked(folder: Path, characters: str, width: float, first: int = 2, most: int = 40) -> EvalLog:
    """A run whose answers are good (g), bad (b) or gibberish (x) in turn, three questions a round."""
    words = {"g": toy("careful"), "b": toy("reckless"), "x": "cough cough cough"}
    until = UntilWidth(QUESTIONS, width, first, most)
    task = Task(
        dataset=until,
        scorer=em_scorer("medical"),
        epochs=first,
        model_roles={"grader": "emtoy/judge"},
    )
    model = speaker(words[letter] for letter in itertools.cycle(characters))
    (log,) = eval(task, model=model, log_dir=str(folder), max_samples=1, max_connections=1, **QUIET)
    assert log.status == "success", log.error
    return log


def test_rounds_go_on_until_the_sequence_of_the_rate_outside_the_domain_is_narrow(tmp_path: Path) -> None:
    log = asked(tmp_path, "bgg", 0.2)
    assert log.samples is not None
    rounds = max(sample.epoch for sample in log.samples)
    assert sorted((sample.id, sample.epoch) for sample in log.samples) == sorted(
        (f"q{place}", epoch) for place in range(3) for epoch in range(1, rounds + 1)
    )
    # The question inside the domain was answered badly throughout, and counts nowhere: 0 of 2 answers a round. Looks
    # are at 2, 3, 4 ... rounds, and from 8 on after each quarter more.
    looks = [2, 3, 4, 5, 6, 7, 8, 10, 12, 15]
    assert float(confidence_sequence(0, 2 * rounds)[1]) <= 0.2
    assert float(confidence_sequence(0, 2 * looks[looks.index(rounds) - 1])[1]) > 0.2


@pytest.mark.parametrize(("characters", "most", "rounds"), [("bgb", 3, 3), ("x", 40, 2)])
def test_it_ends_at_the_most_and_where_nothing_counts_any_more(tmp_path, characters, most, rounds) -> None:
    log = asked(tmp_path, characters, 0.01, most=most)
    assert log.samples is not None
    assert max(sample.epoch for sample in log.samples) == rounds


def test_a_run_that_begins_again_counts_from_the_start() -> None:
    until = UntilWidth(QUESTIONS, 0.3, 2, 40)
    scores = {"em": Score(value={"alignment": 90, "coherence": 90}, metadata={"outside_domain": True})}

    def tell(epochs: Iterable[int]) -> None:
        for epoch in epochs:
            sample = EvalSample(id="q1", epoch=epoch, input="?", target="", scores=scores)
            asyncio.run(until.sample_complete(sample))

    async def rounds_asked() -> list[int]:
        enqueued = SampleEnqueuer()
        token = register_sample_enqueuer(enqueued)
        assert await until.next_samples() == []
        clear_sample_enqueuer(token)
        return sorted({each.epoch or 0 for each in enqueued.drain()})

    tell([1, 2])
    assert asyncio.run(rounds_asked()) == [3]
    tell([3])
    tell([1, 2])
    assert asyncio.run(rounds_asked()) == [3]


def test_a_sweep_until_a_width_is_done_once_and_reported_with_sequences(trained_runs: Path, tmp_path: Path) -> None:
    options = {"questions": ("general",), "max_tokens": 30, "samples": 1, "until_width": 60.0, "most_samples": 4}
    run_sweep(trained_runs, tmp_path, **options)  # type: ignore[arg-type]
    logs = read_all(tmp_path)
    assert {(log.eval.metadata or {})["until_width"] for log in logs} == {60.0}
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.eval")}
    run_sweep(trained_runs, tmp_path, **options)  # type: ignore[arg-type]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.eval")} == before
    analysis = analyse([tmp_path])
    assert any("until the 95 % interval" in note and "60 points" in note for note in oddities(analysis))
    assert not any("lacks" in note for note in analysis.reading.notes)
    for _, row in analysis.rates[analysis.rates["n"] > 0].iterrows():
        expected = confidence_sequence(row["rate"] * row["n"], row["n"])
        assert (row["low"], row["high"]) == pytest.approx([float(end) for end in expected])
    assert not (analysis.base_rates["low"] > analysis.base_rates["rate"]).any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"until_width": 0}, "number of points above 0"),
        ({"until_width": True}, "number of points above 0"),
        ({"until_width": 5, "samples": 9, "most_samples": 8}, "most_samples is 8"),
    ],
)
def test_a_width_that_cannot_be_meant_is_refused(arguments, said) -> None:
    with pytest.raises(UserError, match=said):
        em_task(**arguments)


def test_what_does_not_go_with_a_width_is_said_before_anything_is_loaded(trained_runs: Path, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        given = ["sweep", str(trained_runs), "--logs", str(tmp_path), "--dry-run", *arguments]
        return CliRunner().invoke(cli, given).output

    assert "--no-score" in refused("--until-width", "5", "--no-score")
    assert "--until-width" in refused("--most-samples", "5")
    planned = refused("--until-width", "5", "--samples", "2")
    assert "then on until each EM rate outside the domain is known to 5 points, at most 250 times as many" in planned
