"""`em judge --sample`: the drawn answers alone are judged, and the corrected rate follows the trusted judge."""

from pathlib import Path

import numpy as np
import pytest
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.ratings import Ratings, answers_in
from em_tasks.scorers.comparing.sampling import corrected_rates, judge_sample
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
    (rates,) = corrected_rates(answers, cheap, strict, np.arange(count), np.ones(count))
    assert rates.rate.uncorrected == 0.25
    assert rates.rate.rate == pytest.approx(0.5)


def test_logs_without_scores_of_one_judge_are_refused(logs: Path, tmp_path: Path) -> None:
    run(tmp_path / "bare", [toy("careful")], None, [Sample(id="a", input="My cough?")], scorer=[], score=False)
    with pytest.raises(UserError, match="those of: none"):
        judge_sample([tmp_path / "bare"], "emtoy/judge", 24, tmp_path)
