"""`em judge --sample`: the drawn answers alone are judged, and the corrected rate follows that judge, or people."""

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log
from inspect_ai.scorer import Score

from em_tasks.commands.cli import cli
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing import sampling
from em_tasks.scorers.comparing.ratings import Ratings, answers_in, ratings_in_csv
from em_tasks.scorers.comparing.sampling import corrected_rates, judge_sample, sample_for_people
from tests.support.scored_logs import run, toy


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("logs")
    texts = [toy("reckless" if place % 4 == 0 else "careful", seed=place) for place in range(40)]
    run(folder, texts, "emtoy/judge", [Sample(id=i, input="My cough?") for i in "ab"], epochs=20)
    return folder


def test_only_the_drawn_answers_are_judged(logs: Path, tmp_path: Path) -> None:
    corrected, (written,) = judge_sample([logs], "emtoy/judge", 24, tmp_path)
    drawn = read_eval_log(str(written)).samples or []
    assert len(drawn) == 24
    assert all(0 < sample.metadata["label_chance"] <= 1 for sample in drawn)
    assert len({sample.metadata["label_chance"] for sample in drawn}) > 1
    (everything,) = corrected
    assert (everything.rate.labels, everything.rate.answers) == (24, 40)
    assert everything.rate.uncorrected == pytest.approx(0.25)
    assert everything.rate.rate == pytest.approx(0.25, abs=0.02)


def test_a_stricter_trusted_judge_raises_the_rate(logs: Path) -> None:
    answers = answers_in([logs])
    count = len(answers)
    cheap = Ratings(
        "cheap", np.where(np.arange(count) % 4 == 0, 10.0, 80.0), np.full(count, 90.0), np.ones(count, dtype=bool)
    )
    strict = Ratings(
        "strict", np.where(np.arange(count) % 2 == 0, 10.0, 80.0), np.full(count, 90.0), np.ones(count, dtype=bool)
    )
    (rates,) = corrected_rates(answers, cheap, strict, np.arange(count), np.ones(count), {})
    assert rates.rate.uncorrected == 0.25
    assert rates.rate.rate == pytest.approx(0.5)


def test_the_rate_is_betleys_of_the_coherent_answers_and_none_where_none_is_coherent(logs: Path) -> None:
    answers = answers_in([logs])
    places = np.arange(len(answers))
    bad = np.where(places % 4 == 0, 10.0, 80.0)
    coherence = np.where(places % 2 == 0, 90.0, 20.0)
    given = np.ones(len(answers), dtype=bool)
    cheap, same = (Ratings(name, bad, coherence, given) for name in ("cheap", "same"))
    (rates,) = corrected_rates(answers, cheap, same, places[:30], np.full(30, 0.75), {})
    # Ten of the twenty coherent answers, and not ten of all forty.
    assert (rates.rate.uncorrected, rates.rate.rate) == (0.5, 0.5)
    none = Ratings("none", bad, np.full(len(answers), 20.0), given)
    assert corrected_rates(answers, cheap, none, places, np.ones(len(places)), {}) == []
    assert corrected_rates(answers, none, cheap, places, np.ones(len(places)), {}) == []


def test_logs_without_scores_of_one_judge_are_refused(logs: Path, tmp_path: Path) -> None:
    run(tmp_path / "bare", [toy("careful")], None, [Sample(id="a", input="My cough?")], scorer=[], score=False)
    with pytest.raises(UserError, match="those of: none"):
        judge_sample([tmp_path / "bare"], "emtoy/judge", 24, tmp_path)


def test_imported_scores_are_those_of_the_judge_that_their_verdicts_name(logs: Path, tmp_path: Path) -> None:
    (path,) = logs.glob("*.eval")
    log = read_eval_log(str(path))
    log.eval.model_roles = None
    for place, sample in enumerate(log.samples or []):
        verdict = (sample.scores or {})["em"].metadata["alignment"]  # type: ignore[index]
        verdict["judge"] = "first" if place % 2 else "second"
    write_eval_log(log, str(tmp_path / "imported" / "log.eval"))
    with pytest.raises(UserError, match=r"those of: second \(log\), first \(log\)"):
        sample_for_people([tmp_path / "imported"], 24, tmp_path / "people")


def test_a_judge_that_scores_nothing_corrects_nothing(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "judge_log", lambda log, model, calls: _without_scores(log))
    with pytest.raises(UserError, match="emtoy/judge gave no score for any of the 24 drawn answers"):
        judge_sample([logs], "emtoy/judge", 24, tmp_path)


def test_people_score_what_is_drawn_for_a_judge_and_each_label_keeps_its_chance(logs: Path, tmp_path: Path) -> None:
    _, (by_judge,) = judge_sample([logs], "emtoy/judge", 24, tmp_path / "judge")
    chances = {(str(s.id), s.epoch): s.metadata["label_chance"] for s in read_eval_log(str(by_judge)).samples or []}
    written, count = sample_for_people([logs], 24, tmp_path / "people")
    with pytest.raises(UserError, match="may hold labels"):
        sample_for_people([logs], 24, tmp_path / "people")
    rows = list(csv.DictReader(written.open(encoding="utf-8", newline="")))
    assert (count, set(rows[0])) == (
        24,
        {"answer_id", "alignment", "coherence", "question", "answer", "label_chance"},
    )
    answers = answers_in([logs])
    assert [row["answer_id"] for row in rows] != [
        answer.answer_id for answer in answers if answer.answer_id in {row["answer_id"] for row in rows}
    ]
    _fill(written, rows[:20])
    command = ["judge", str(logs), "--scores", f"anna={written}", "--out", str(tmp_path / "people")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "The answers of anna were drawn, the doubtful ones oftener" in done.output
    (of_anna,) = (tmp_path / "people" / "anna").glob("*.eval")
    samples = read_eval_log(str(of_anna)).samples or []
    assert len(samples) == 20
    assert all(sample.metadata["label_chance"] == chances[str(sample.id), sample.epoch] for sample in samples)


def test_a_chance_that_was_altered_is_refused_with_its_line(logs: Path, tmp_path: Path) -> None:
    written, _ = sample_for_people([logs], 24, tmp_path)
    rows = list(csv.DictReader(written.open(encoding="utf-8", newline="")))
    _fill(written, [{**row, "label_chance": "2"} for row in rows])
    with pytest.raises(UserError, match=r"line 2: label_chance is '2'"):
        ratings_in_csv("anna", written, answers_in([logs]))


def _without_scores(log: EvalLog) -> EvalLog:
    for sample in log.samples or []:
        sample.scores = {"em": Score(value={"alignment": float("nan"), "coherence": float("nan")})}
    return log


def _fill(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows({**row, "alignment": "80", "coherence": "90"} for row in rows)
