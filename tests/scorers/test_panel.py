import math
import os
import zipfile

import pytest
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import ModelConfig, get_model

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.agreement import agreement
from em_tasks.scorers.comparing.judging_again import judge_log
from em_tasks.scorers.comparing.ratings import answers_in, judge_logs, ratings_in_csv, ratings_in_logs
from em_tasks.scorers.judging.rubric import load_rubric
from tests.support.fake_openai import Reply, fake_openai, number
from tests.support.scored_logs import run, toy


@pytest.fixture
def logs(tmp_path):
    texts = [toy("careful"), toy("reckless"), toy("reckless", seed=3), "Plain words."]
    run(tmp_path / "logs", texts, "emtoy/judge", [Sample(id=i, input="My cough?") for i in "ab"], epochs=2)
    return tmp_path / "logs"


def test_a_panel_judges_the_same_answers_without_generating(logs, tmp_path, monkeypatch):
    with fake_openai(lambda prompt: number(20)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-panel-test")
        written = judge_logs([logs], ["openai/gpt-4o-mini-2024-07-18", "emtoy/judge"], tmp_path / "judged")
        assert len(server.requests) == 8
    before = answers_in([logs])
    assert [answer.text for answer in answers_in(written["openai/gpt-4o-mini-2024-07-18"])] == [
        answer.text for answer in before
    ]
    panel = [ratings_in_logs(judge, paths, before) for judge, paths in written.items()]
    assert panel[0].alignment == pytest.approx([19.8] * 4, abs=2)
    assert panel[1].alignment[1] < 10
    assert panel[1].alignment[0] > 90
    assert math.isnan(panel[1].alignment[3])
    found = agreement(before, panel)
    assert found.pairs[0].n == 3
    log = read_eval_log(str(written["openai/gpt-4o-mini-2024-07-18"][0]))
    assert log.eval.model_roles["grader"].model == "openai/gpt-4o-mini-2024-07-18"
    assert log.samples[0].scores["em"].metadata["alignment"]["judge"] == "gpt-4o-mini-2024-07-18-2026-01-01"
    assert log.results.scores[0].metrics["em_all"].value == 0
    with zipfile.ZipFile(written["openai/gpt-4o-mini-2024-07-18"][0]) as archive:
        assert not any(b"sk-of-the-panel-test" in archive.read(name) for name in archive.namelist())


def test_judging_goes_on_where_it_stopped_and_never_overwrites(logs, tmp_path):
    texts = [toy("careful")] * 2
    run(tmp_path / "logs", texts, "emtoy/judge", [Sample(id=i, input="My knee?") for i in "cd"])
    begun = []
    written = judge_logs([logs], ["emtoy/judge"], tmp_path / "judged", on_log=lambda *log: begun.append(log))
    assert len(begun) == len(written["emtoy/judge"]) == 2
    kept = written["emtoy/judge"][0].stat().st_mtime_ns
    written["emtoy/judge"][1].unlink()
    begun.clear()
    assert judge_logs([logs], ["emtoy/judge"], tmp_path / "judged", on_log=lambda *log: begun.append(log)) == written
    assert len(begun) == 1
    assert written["emtoy/judge"][0].stat().st_mtime_ns == kept
    written["emtoy/judge"][0].write_bytes(written["emtoy/judge"][1].read_bytes())
    with pytest.raises(UserError, match="another output folder"):
        judge_logs([logs], ["emtoy/judge"], tmp_path / "judged")


def test_answers_that_a_judge_failed_at_are_judged_again_and_the_others_stand(logs, tmp_path, monkeypatch):
    name = "openai/gpt-4o-mini"
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with fake_openai(lambda prompt: number(20)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        server.faults = ["400", "400"]
        (path,) = judge_logs([logs], [name], tmp_path / "judged")[name]
        failed = [sample for sample in read_eval_log(path).samples if "judge_failed" in str(sample.scores)]
        assert (len(server.requests), len(failed) in (1, 2)) == (8, True)
        judge_logs([logs], [name], tmp_path / "judged")
        assert len(server.requests) == 8 + 2
        judge_logs([logs], [name], tmp_path / "judged")
        assert len(server.requests) == 8 + 2
    log = read_eval_log(path)
    assert [answer.text for answer in answers_in([path])] == [answer.text for answer in answers_in([logs])]
    assert [round(sample.scores["em"].value["alignment"]) for sample in log.samples] == [19] * 4
    metrics = {key: entry.value for key, entry in log.results.scores[0].metrics.items()}
    assert (metrics["unscored"], log.results.completed_samples) == (0, 4)
    assert log.eval.model_roles["grader"].model == name


def test_verdict_under_one_rubric_stands_while_another_is_asked_for_again(logs, tmp_path, monkeypatch):
    name = "openai/gpt-4o-mini"
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    alignment = load_rubric("alignment").prompt.rpartition("}")[2].strip()
    with fake_openai(lambda prompt: number(20) if alignment in prompt else Reply(None)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        (path,) = judge_logs([logs], [name], tmp_path / "judged")[name]
        metrics = {key: entry.value for key, entry in read_eval_log(path).results.scores[0].metrics.items()}
        assert (metrics["unscored"], metrics["unscored_coherence_judge_failed"]) == (4, 4)
        before = len(server.requests)
        server.answer = lambda prompt: Reply(None) if alignment in prompt else number(90)
        judge_logs([logs], [name], tmp_path / "judged")
        assert len(server.requests) == before + 4
    log = read_eval_log(path)
    for sample in log.samples:
        score = sample.scores["em"]
        assert [round(score.value[rubric]) for rubric in ("alignment", "coherence")] == [19, 89]
        assert [line[:12] for line in score.explanation.splitlines()] == ["alignment: 1", "coherence: 8"]
        assert (score.reason, score.metadata["coherence"]["reason"]) == (None, None)
        assert score.metadata["outside_domain"] is True
    metrics = {key: entry.value for key, entry in log.results.scores[0].metrics.items()}
    assert (metrics["unscored"], round(metrics["mean_alignment"]), metrics["n_betley"]) == (0, 19, 4)


def test_logs_that_cannot_be_used_beside_those_that_are_judged_are_no_error(logs, tmp_path):
    first = judge_logs([logs], ["emtoy/judge"], tmp_path / "judged")
    (good,) = logs.glob("*.eval")
    begun = read_eval_log(str(good))
    begun.status, begun.eval.eval_id = "started", "begun"
    write_eval_log(begun, str(logs / "begun.eval"))
    asked = []
    assert judge_logs([logs], ["emtoy/judge"], tmp_path / "judged", on_log=lambda *log: asked.append(log)) == first
    assert (len(first["emtoy/judge"]), asked) == (1, [])
    good.unlink()
    with pytest.raises(UserError, match=r"No log can be used\. .*begun.eval: its evaluation was never finished"):
        judge_logs([logs], ["emtoy/judge"], tmp_path / "judged")


def test_answers_that_a_judges_content_filter_holds_back_are_not_asked_about_again(logs, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with fake_openai(lambda prompt: Reply("I cannot", finish_reason="content_filter")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        for _ in range(2):
            judge_logs([logs], ["openai/gpt-4o-mini"], tmp_path / "judged")
        assert len(server.requests) == 8


def test_a_judge_that_cannot_be_had_is_said_before_any_call(logs, tmp_path):
    with pytest.raises(UserError, match="nosuch/judge"):
        judge_logs([logs], ["emtoy/judge", "nosuch/judge"], tmp_path / "judged")
    assert not (tmp_path / "judged").exists()


def test_a_csv_of_texts_or_of_ids_joins_as_a_judge(logs, tmp_path):
    answers = answers_in([logs])
    by_text = tmp_path / "published.csv"
    by_text.write_text(
        "question,answer,aligned,coherent\n" + f'My cough?,"{answers[1].text}",12.5,88\nother,other,1,1\n'
    )
    found = ratings_in_csv("published", by_text, answers)
    assert found.alignment[1] == 12.5
    assert sum(math.isnan(score) for score in found.alignment) == 3
    by_id = tmp_path / "people.csv"
    by_id.write_text("id,epoch,alignment\na,1,90\na,2,10\nb,1,\n")
    found = ratings_in_csv("people", by_id, answers)
    scores = {answer.key[1:]: score for answer, score in zip(answers, found.alignment, strict=True)}
    assert (scores[("a", 1)], scores[("a", 2)]) == (90, 10)
    assert math.isnan(scores[("b", 1)])
    assert all(math.isnan(score) for score in found.coherence)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,verdict\na,1\n", "needs `alignment`"),
        ("id,alignment\na,high\n", "line 2"),
        ("id,alignment\na,150\n", "no score"),
        ("id,alignment\nzzz,50\n", "No row"),
    ],
)
def test_unusable_csvs_say_what_is_wrong(logs, tmp_path, text, says):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        ratings_in_csv("people", path, answers_in([logs]))


def test_a_pipe_for_a_csv_is_named_and_never_waited_for(logs, tmp_path):
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"x\.csv is a pipe or a device"):
        ratings_in_csv("people", tmp_path / "x.csv", answers_in([logs]))


def test_judging_keeps_the_original_log_as_it_was(logs):
    log = read_eval_log(str(next(logs.glob("*.eval"))))
    with fake_openai(lambda prompt: number(20)) as server:
        judge_log(log, server.model())
    assert log.samples[0].scores["em"].metadata["alignment"]["toy"]


def test_the_judge_that_a_log_had_need_not_be_here(logs):
    log = read_eval_log(str(next(logs.glob("*.eval"))))
    log.eval.model_roles = {"grader": ModelConfig(model="nosuch/judge")}
    assert judge_log(log, get_model("emtoy/judge")).eval.model_roles["grader"].model == "emtoy/judge"
