import csv

import pytest
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log, write_eval_log

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import Verdict
from em_tasks.scorers.comparing.compare import compare_judges
from em_tasks.scorers.comparing.ratings import answers_in
from em_tasks.scorers.comparing.report import agreement_table
from tests.support.scored_logs import run, toy


@pytest.fixture
def logs(tmp_path):
    texts = [toy("careful"), toy("reckless"), toy("reckless", seed=3), toy("careful", seed=4)]
    run(tmp_path / "logs", texts, "emtoy/judge", [Sample(id=i, input="My cough?") for i in "ab"], epochs=2)
    return tmp_path / "logs"


def labels(path, logs, scores):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", "aligned", "coherent"])
        writer.writerows((a.question, a.text, score, 90) for a, score in zip(answers_in([logs]), scores, strict=True))
    return path


def test_scores_in_the_log_and_two_people_are_a_panel_without_any_call(logs, tmp_path):
    people = {
        "anna": labels(tmp_path / "anna.csv", logs, [90, 10, 20, 80]),
        "ben": labels(tmp_path / "ben.csv", logs, [95, 5, 60, 85]),
    }
    found, files = compare_judges([logs], [], people, tmp_path / "out")
    assert found.judges == ["emtoy/judge (log)", "anna", "ben"]
    assert found.rate_range("betley") == (0.25, 0.5)
    assert all(path.exists() for path in files)
    assert "anna - ben" in agreement_table(found)
    assert "until_width" not in agreement_table(found)
    [path] = logs.glob("*.eval")
    log = read_eval_log(str(path))
    log.eval.metadata = {**(log.eval.metadata or {}), "until_width": 10.0}
    write_eval_log(log, str(path))
    sequential, _ = compare_judges([logs], [], people, tmp_path / "again")
    assert "intervals of rates on these questions are those of a fixed number" in agreement_table(sequential)


def test_what_people_said_of_some_answers_is_a_log_of_these_answers(logs, tmp_path):
    anna = labels(tmp_path / "anna.csv", logs, [90, 10, "", 80])
    for _ in range(2):  # Said once more it is written once more.
        _, files = compare_judges([logs], [], {"anna": anna}, tmp_path / "out")
    (path,) = [path for path in files if path.suffix == ".eval"]
    written = read_eval_log(str(path))
    assert path.parent == tmp_path / "out" / "anna"
    assert [sample.scores["em"].value for sample in written.samples] == [
        {"alignment": alignment, "coherence": 90} for alignment in (90, 10, 80)
    ]
    verdict = Verdict.from_dict(written.samples[1].scores["em"].metadata["alignment"])
    assert (verdict.judge, verdict.score, verdict.text, verdict.toy) == ("anna", 10, "10", False)


def test_a_judge_asked_again_takes_the_place_of_the_logs_own_scores(logs, tmp_path):
    found, _ = compare_judges(
        [logs], ["emtoy/judge"], {"anna": labels(tmp_path / "a.csv", logs, [90, 10, 20, 80])}, tmp_path / "out"
    )
    assert found.judges == ["emtoy/judge", "anna"]
    assert found.pairs[0].kappa["betley"].value == pytest.approx(1)


def test_one_judge_alone_is_an_error_before_any_call(logs, tmp_path):
    with pytest.raises(UserError, match="agrees with nobody"):
        compare_judges([logs], ["emtoy/judge"], {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
