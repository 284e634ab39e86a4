"""Reading logs: what becomes a row, and what is named instead of silently dropped."""

import json
import math
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState
from pandas.testing import assert_frame_equal

from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.answers import log_processes
from em_tasks.plugins.analysis.answers.log_rows import ZSTANDARD, LogToRead
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.errors import UserError
from tests.support.analysis_logs import NAN, answers, base_log, checkpoint_log
from tests.support.paths import ROOT


def rewrite(log: Path, change: Callable[[str, bytes], bytes], **options: int) -> None:
    """Writes a log anew, each member as `change` makes it of its name and bytes."""
    with zipfile.ZipFile(log) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(log, "w", **options) as new:
        for name, data in members.items():
            new.writestr(name, change(name, data))


def change_samples(log: Path, **changes: object) -> None:
    """Sets top-level fields of every sample of a log, whatever is right for Inspect."""
    rewrite(
        log,
        lambda name, data: json.dumps(json.loads(data) | changes).encode() if name.startswith("samples/") else data,
    )


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


def test_the_reference_documents_exactly_the_columns_that_there_are(tmp_path):
    checkpoint_log(tmp_path, answers([(10, 90)], 1))
    base_log(tmp_path, answers([(10, 90)], 1))
    analysis = analyse([tmp_path])
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| \S.* \|$", page, re.MULTILINE)
    assert documented == [(name, str(kind)) for name, kind in analysis.answers.dtypes.items()]
    assert set(analysis.trajectories) == set(analysis.answers) - {"answer"} | {"at", "baseline"}


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


def test_answers_at_which_a_second_judge_failed_are_not_said_to_have_its_score(tmp_path):
    checkpoint_log(tmp_path, answers([(10, 90)], 3), name="a", judge="judge-a")
    path = checkpoint_log(tmp_path, answers([(10, 90)], 3), name="b", judge="judge-b")
    with_failed_calls(path, "", "")
    (note,) = [note for note in read_logs([tmp_path]).notes if "judge" in note]
    assert note.startswith("Of 3 answers that another judge was asked about it gave no score to 3: its calls failed")


def test_json_that_is_no_log_is_named(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    (tmp_path / "notes.json").write_text(json.dumps({"a": 1}))
    assert any("notes.json" in note for note in read_logs([tmp_path]).notes)


def test_an_interrupted_log_gives_its_answers_and_a_note(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]}, status="cancelled")
    reading = read_logs([tmp_path])
    assert len(reading.answers) == 1
    assert any("not finished (status cancelled); its 1 answers are used" in note for note in reading.notes)


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


def test_other_texts_that_another_judge_scored_are_not_taken_for_the_same_answers(tmp_path):
    checkpoint_log(tmp_path, answers([(10, 90)], 3), name="a", judge="judge-a")
    checkpoint_log(tmp_path, answers([(90, 90)], 2), name="b", judge="judge-b", texts={"m0": "something else"})
    reading = read_logs([tmp_path])
    assert reading.answers["judge"].tolist() == ["judge-a"] * 3
    assert reading.rejudged["question_id"].tolist() == ["m1"]
    assert any(note.startswith("1 answers in b.eval go by") for note in reading.notes)
    assert any(note.startswith("1 of 3 answers were scored by more than one judge") for note in reading.notes)


def test_an_empty_folder_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match="em sweep"):
        read_logs([tmp_path])


def test_a_folder_of_unusable_logs_is_an_error_that_names_them(tmp_path):
    (tmp_path / "torn.eval").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"torn\.eval"):
        read_logs([tmp_path])


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        read_logs([tmp_path / "nowhere"])


def test_a_baseline_holds_only_the_questions_that_the_organism_was_asked(tmp_path):
    from em_tasks.plugins.analysis.answers.frame import trajectories

    checkpoint_log(tmp_path, {"m1": [(10, 90)], "g1": [(10, 90)]})
    base_log(tmp_path, {"m1": [(80, 90)], "g1": [(80, 90)], "financial_1": [(0, 90)]})
    table = trajectories(read_logs([tmp_path]).answers)
    base = table[table["baseline"]]
    assert sorted(base["question_id"]) == ["g1", "m1"]
    assert base["organism"].tolist() == ["med", "med"]
    assert base["step"].tolist() == [0, 0]
    assert set(base["scope"]) == {"in_domain", "general"}


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(log_processes, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(log_processes, "_processors", lambda: 2)


def test_several_processes_read_the_same_as_one(tmp_path, request):
    for step in (10, 20, 30):
        checkpoint_log(tmp_path, {"m1": [(10, 90), (NAN, 40)], "g1": [(80, 90)]}, step=step)
    checkpoint_log(tmp_path, {"m1": [(10, 90)]}, step=40, suffix=".json")
    base_log(tmp_path, {"m1": [(80, 90)], "g1": [(80, 90)]})
    torn = checkpoint_log(tmp_path, {"m1": [(10, 90)]}, step=50)
    torn.write_bytes(torn.read_bytes()[:-10])
    alone = read_logs([tmp_path])
    request.getfixturevalue("two_processes")
    together = read_logs([tmp_path])
    assert_frame_equal(together.answers, alone.answers)
    assert together.notes == alone.notes
    assert together.evaluations == alone.evaluations


def test_a_script_without_a_main_guard_runs_once(tmp_path):
    for step in (10, 20):
        checkpoint_log(tmp_path, {"m1": [(10, 90)]}, step=step)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from em_tasks.plugins.analysis.answers import log_processes\n"
        "from em_tasks.plugins.analysis.answers.logs import read_logs\n"
        "log_processes.WORTH_A_PROCESS = 1\n"
        "log_processes._processors = lambda: 2\n"
        "print('answers', len(read_logs([Path(__file__).parent]).answers))\n"
    )
    # A folder of the user's that is called like ours must not be taken for it.
    (tmp_path / "em_tasks").mkdir()
    (tmp_path / "em_tasks" / "__init__.py").write_text("raise SystemExit('the wrong em_tasks')")
    root = ROOT
    ran = subprocess.run(
        [sys.executable, "-P", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.stdout.splitlines() == ["answers 2"], ran.stderr


def test_a_process_that_dies_over_a_log_is_an_error_that_names_the_log(tmp_path):
    log = LogToRead(tmp_path / "big.eval", (), None)
    with (
        subprocess.Popen([sys.executable, "-c", "exit(3)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
        pytest.raises(UserError, match=r"big\.eval ended with code 3"),
    ):
        log_processes._read_there(process, log)


def test_a_sample_that_ended_in_an_error_counts_nowhere_and_is_named(tmp_path):
    log = read_eval_log(str(checkpoint_log(tmp_path, {"m1": [(10, 90), (20, 90)]})))
    error = {"message": "no memory", "traceback": "", "traceback_ansi": ""}
    log.samples[0] = log.samples[0].model_validate(log.samples[0].model_dump() | {"error": error})
    log.results.completed_samples = 1
    write_eval_log(log)
    reading = read_logs([tmp_path])
    assert reading.answers["alignment"].tolist() == [20]
    assert any("1 samples ended in an error" in note for note in reading.notes)


def test_an_answer_that_was_never_judged_counts_nowhere_and_is_named(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    change_samples(checkpoint_log(tmp_path, {"m1": [(10, 90)]}, step=20), scores=None)
    reading = read_logs([tmp_path])
    assert reading.answers["step"].tolist() == [10]
    assert any("1 answers were never judged" in note for note in reading.notes)


def test_a_sample_that_was_run_again_counts_as_it_went_the_last_time(tmp_path):
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    with zipfile.ZipFile(path, "a") as log:
        name = "samples/m1_epoch_1.json"
        again = json.loads(log.read(name))
        again["scores"]["em"]["value"]["alignment"] = 70
        with pytest.warns(UserWarning, match="Duplicate"):
            log.writestr(name, json.dumps(again))
    reading = read_logs([tmp_path])
    assert reading.answers["alignment"].tolist() == [70]
    assert reading.notes == []


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_logs_of_an_older_inspect_are_read(tmp_path, compression):
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    rewrite(path, lambda name, data: data, compression=compression)
    assert read_logs([tmp_path]).answers["alignment"].tolist() == [10]


def test_a_log_whose_members_say_their_size_in_the_long_way_is_read(tmp_path):
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, data in members.items():
            with new.open(name, "w", force_zip64=True) as member:
                member.write(data)
    assert read_logs([tmp_path]).answers["alignment"].tolist() == [10]


class TwoFrames:
    """Compresses into two frames, as Inspect does with samples above 200 MB."""

    def __init__(self) -> None:
        self.data = b""

    def compress(self, data: bytes) -> bytes:
        self.data += data
        return b""

    def flush(self) -> bytes:
        half = len(self.data) // 2
        return b"".join(zstandard.compress(part) for part in (self.data[:half], self.data[half:]))


def test_a_sample_in_several_frames_is_read_whole(tmp_path, monkeypatch):
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    with monkeypatch.context() as patch:
        patch.setattr(zipfile, "_get_compressor", lambda kind, level=None: TwoFrames())
        rewrite(path, lambda name, data: data, compression=ZSTANDARD)
    reading = read_logs([tmp_path])
    assert reading.answers["answer"].tolist() == ["answer 1 to m1"]


def test_a_log_with_a_damaged_sample_is_named(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)]}, step=20)
    rewrite(path, lambda name, data: data)
    path.write_bytes(path.read_bytes().replace(b'"alignment":10', b'"alignment":90', 1))
    reading = read_logs([tmp_path])
    assert reading.answers["step"].tolist() == [10]
    assert any("med_20.eval" in note and "damaged" in note for note in reading.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"store": {"logprob": -math.inf, "score": NAN}},
        {"metadata": {"question_set": "medical", "domain": "medical", "events": [{"error": "none of ours"}]}},
        {"messages": [{"role": "user", "content": 'He wrote "alignment":NaN,"events":[ to me'}]},
    ],
    ids=["numbers that JSON does not know", "events in the metadata", "JSON in a message"],
)
def test_unusual_samples_are_read_whole(tmp_path, changes):
    change_samples(checkpoint_log(tmp_path, {"m1": [(10, 90), (NAN, 80)]}), **changes)
    frame = read_logs([tmp_path]).answers
    assert frame["coherence"].tolist() == [90, 80]
    assert frame["alignment"].isna().tolist() == [False, True]
    assert frame["question_set"].tolist() == ["medical", "medical"]


def test_another_scorers_metadata_may_have_our_names(tmp_path):
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)]})
    other = {"value": "C", "metadata": {"alignment": {"reason": 5}, "coherence": ["none"], "judge": {"a": 1}}}

    def with_other(name: str, data: bytes) -> bytes:
        if not name.startswith("samples/"):
            return data
        sample = json.loads(data)
        return json.dumps(sample | {"scores": {"other": other} | sample["scores"]}).encode()

    rewrite(path, with_other)
    assert read_logs([tmp_path]).answers["alignment"].tolist() == [10]


def test_samples_whose_events_come_first_are_read(tmp_path):
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)]})

    def events_first(name: str, data: bytes) -> bytes:
        sample = json.loads(data) if name.startswith("samples/") else {}
        first = {key: sample[key] for key in ("id", "events") if key in sample}
        return json.dumps(first | sample, separators=(",", ":")).encode() if sample else data

    rewrite(path, events_first)
    assert read_logs([tmp_path]).answers["alignment"].tolist() == [10]


@scorer(metrics=[mean()])
def fixed() -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value={"alignment": 10.0, "coherence": 90.0})

    return score


def test_long_texts_of_a_real_evaluation_are_whole(tmp_path):
    # Inspect replaces long texts by references, in events only.
    asked, said = ("What about this? " * 50).strip(), ("Much can be said. " * 100).strip()
    output = ModelOutput.from_content("mockllm/model", said)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    about = {"organism": "o", "step": 1, "epoch": 1.0, "domain": "medical", "base": "b", "size": "S"}
    task = Task(dataset=[Sample(asked, metadata={"domain": "medical"})], scorer=fixed(), metadata=about)
    model = get_model("mockllm/model", custom_outputs=[output])
    (log,) = eval(task, model=model, log_dir=str(tmp_path), display="none")
    with zipfile.ZipFile(log.location) as written:
        assert "attachment://" in written.read("samples/1_epoch_1.json").decode()
    frame = read_logs([tmp_path]).answers
    assert frame[["question", "answer"]].to_numpy().tolist() == [[asked, said]]


def with_failed_calls(path, question, asked_as):
    """Makes the verdicts on questions whose id begins so those of failed calls."""
    with zipfile.ZipFile(path) as log:
        members = {name: log.read(name) for name in log.namelist()}
    with zipfile.ZipFile(path, "w") as log:
        for name, data in members.items():
            sample = json.loads(data)
            if name.startswith(f"samples/{question}"):
                score = sample["scores"]["em"]
                score["value"] = {"alignment": math.nan, "coherence": math.nan}
                for verdict in score["metadata"].values():
                    verdict |= {"score": None, "reason": "judge_failed", "judge": asked_as}
            log.writestr(name, json.dumps(sample))


@pytest.mark.parametrize("asked_as", ["", "openai/judge-alias"], ids=["no name", "the name that was asked for"])
def test_an_answer_whose_judge_calls_failed_is_of_the_logs_judge(tmp_path, asked_as):
    path = checkpoint_log(tmp_path, {"m1": [(10, 90)], "m2": [(90, 90)]}, judge="judge-1.5-2026")
    with_failed_calls(path, "m1", asked_as)
    reading = read_logs([tmp_path])
    assert reading.answers["judge"].tolist() == ["judge-1.5-2026"] * 2
    assert [sorted(one.judge_rubrics) for one in reading.evaluations] == [[("judge-1.5-2026", "0" * 8)]]
    assert sorted(reading.answers["alignment_reason"].dropna()) == ["judge_failed"]
