"""Reading logs: what becomes a row, and what is named instead of silently dropped."""

import json
import math

import pytest
from analysis_logs import NAN, answers, base_log, checkpoint_log
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, write_eval_log

from plugins.analysis.logs import read_logs


def test_a_log_becomes_one_typed_row_an_answer(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90), (80, 40)], "g1": [(NAN, 90)]}, stop_reason="max_tokens")
    frame = read_logs([tmp_path]).answers
    assert len(frame) == 3
    assert frame["organism"].tolist() == ["med"] * 3
    assert frame["question_id"].tolist() == ["m1", "m1", "g1"] or set(frame["question_id"]) == {"m1", "g1"}
    first = frame[(frame["question_id"] == "m1") & (frame["sample"] == 1)].iloc[0]
    assert (first["alignment"], first["coherence"], first["step"], first["epoch"]) == (10, 90, 10, 1.0)
    assert first["question"] == "What about m1?"
    assert first["answer"] == "answer 1 to m1"
    assert first["scope"] == "in_domain"
    assert bool(first["truncated"])
    unscored = frame[frame["question_id"] == "g1"].iloc[0]
    assert math.isnan(unscored["alignment"])
    assert unscored["alignment_reason"] == "refusal"
    assert unscored["scope"] == "general"
    assert str(frame["alignment"].dtype) == "float64"


def test_json_logs_are_read_like_eval_logs(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)], "g1": [(NAN, 90)]}, suffix=".json")
    frame = read_logs([tmp_path]).answers
    assert frame["alignment"].isna().sum() == 1


def test_a_half_written_log_is_named_and_the_others_are_read(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    whole = checkpoint_log(tmp_path, {"m1": [(10, 90)]}, step=20)
    whole.write_bytes(whole.read_bytes()[:300])
    reading = read_logs([tmp_path])
    assert len(reading.answers) == 1
    assert any("med_20.eval" in note and "damaged" in note for note in reading.notes)


def test_a_log_of_another_task_is_named(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00", task="gsm8k", dataset=EvalDataset(), model="m", config=EvalConfig()
    )
    write_eval_log(EvalLog(eval=spec, samples=[]), str(tmp_path / "other.eval"))
    assert any("gsm8k" in note for note in read_logs([tmp_path]).notes)


def test_json_that_is_no_log_is_named(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    (tmp_path / "notes.json").write_text(json.dumps({"a": 1}))
    assert any("notes.json" in note for note in read_logs([tmp_path]).notes)


def test_an_interrupted_log_gives_its_answers_and_a_note(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]}, status="cancelled")
    reading = read_logs([tmp_path])
    assert len(reading.answers) == 1
    assert any("not finished" in note for note in reading.notes)


def test_of_a_repeated_evaluation_the_newest_counts_and_is_named(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]}, name="a", created="2026-01-02T00:00:00+00:00")
    checkpoint_log(tmp_path, {"m1": [(99, 90)]}, name="b", created="2026-01-01T00:00:00+00:00")
    reading = read_logs([tmp_path])
    assert reading.answers["alignment"].tolist() == [10]
    assert any("more than once" in note and "b.eval" in note for note in reading.notes)


def test_answers_scored_by_two_judges_count_once(tmp_path):
    checkpoint_log(tmp_path, answers([(10, 90)], 3), name="a", judge="judge-a")
    checkpoint_log(tmp_path, answers([(90, 90)], 2), name="b", judge="judge-b")
    reading = read_logs([tmp_path])
    assert reading.answers["judge"].tolist() == ["judge-a"] * 3
    assert reading.rejudged["judge"].tolist() == ["judge-b"] * 2


def test_an_empty_folder_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="em sweep"):
        read_logs([tmp_path])


def test_a_folder_of_unusable_logs_is_an_error_that_names_them(tmp_path):
    (tmp_path / "torn.eval").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"torn\.eval"):
        read_logs([tmp_path])


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_logs([tmp_path / "nowhere"])


def test_a_baseline_holds_only_the_questions_that_the_organism_was_asked(tmp_path):
    from plugins.analysis.frame import trajectories

    checkpoint_log(tmp_path, {"m1": [(10, 90)], "g1": [(10, 90)]})
    base_log(tmp_path, {"m1": [(80, 90)], "g1": [(80, 90)], "financial_1": [(0, 90)]})
    table = trajectories(read_logs([tmp_path]).answers)
    base = table[table["baseline"]]
    assert sorted(base["question_id"]) == ["g1", "m1"]
    assert base["organism"].tolist() == ["med", "med"]
    assert base["step"].tolist() == [0, 0]
    assert set(base["scope"]) == {"in_domain", "general"}
