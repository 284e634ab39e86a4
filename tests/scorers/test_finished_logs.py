"""Damaged, empty, unfinished and imported logs are skipped and named, and what was stopped goes on."""

import shutil

import pytest
from click.testing import CliRunner
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log, write_eval_log

from em_tasks.commands.results.judge import judge, rescore
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing import finished_logs as finished_logs_module
from em_tasks.scorers.comparing.finished_logs import UNFINISHED, find_logs, finished_logs, new_places
from em_tasks.scorers.comparing.rescore import rescore as read_again
from em_tasks.scorers.judging.reading import Settings
from tests.support.scored_logs import run, toy

IMPORTED = {"score": 20.0, "reason": None, "mode": "text", "mass": None, "tokens": None, "text": "20", "judge": "j",
            "toy": False, "rubric": "alignment (as published)", "rubric_sha256": ""}  # fmt: skip


@pytest.fixture
def logs(tmp_path):
    """A folder with one good log and one of every bad kind; returns it and the good one's name."""
    folder = tmp_path / "logs"
    log = run(folder, [toy("careful"), toy("reckless")], "emtoy/judge", [Sample(id=i, input="My cough?") for i in "ab"])
    [good] = folder.glob("*.eval")
    whole = good.read_bytes()
    (folder / "empty.eval").write_bytes(b"")
    (folder / "half.eval").write_bytes(whole[: len(whole) // 2])
    (folder / "garbage.eval").write_bytes(b"PK" + b"x" * 1000)
    log = read_eval_log(str(good))
    log.status = "started"
    write_eval_log(log, str(folder / "started.eval"))
    log.status, log.samples = "success", []
    write_eval_log(log, str(folder / "bare.eval"))
    return folder, good.name


def test_logs_are_read_once_until_they_change(logs, monkeypatch):
    folder, good = logs
    read = []

    def counted(source):
        read.append(source)
        return read_eval_log(source)

    monkeypatch.setattr(finished_logs_module, "read_eval_log", counted)
    assert finished_logs([folder]) == finished_logs([folder])
    assert sorted(read) == sorted(find_logs([folder]))
    (folder / good).write_bytes(b"")
    with pytest.raises(UserError, match=r"No log can be used\."):
        finished_logs([folder])
    assert len(read) == len(find_logs([folder])) + 1


BAD = ("empty", "half", "garbage", "started", "bare")


def test_bad_logs_are_skipped_and_named_with_the_reason(logs):
    folder, good = logs
    found = finished_logs([folder])
    assert [source.rsplit("/", 1)[-1] for source in found.sources] == [good]
    reasons = {line.partition(".eval: ")[0].rsplit("/", 1)[-1]: line for line in found.skipped}
    assert set(reasons) == set(BAD)
    assert "never finished" in reasons["started"]
    assert "holds no answers" in reasons["bare"]
    for name in ("empty", "half", "garbage"):
        assert "damaged, empty or half-written" in reasons[name]


def test_only_bad_logs_are_an_error_that_names_them(logs):
    folder, good = logs
    (folder / good).unlink()
    with pytest.raises(UserError, match="No log can be used") as caught:
        finished_logs([folder])
    assert "and 2 more" in str(caught.value)


@pytest.mark.parametrize(
    ("command", "options"), [(rescore, ["--mode", "text"]), (judge, ["--judge", "emtoy/judge", "--scores", "p=p.csv"])]
)
def test_the_commands_name_what_they_skip_and_do_the_rest(logs, tmp_path, monkeypatch, command, options):
    folder, good = logs
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.csv").write_text("id,epoch,alignment\na,1,90\nb,1,10\n")
    for _ in range(2):  # The second time everything is done already.
        done = CliRunner().invoke(command, [str(folder), "--out", str(tmp_path / "out"), *options])
        assert done.exit_code == 0, done.output
        for name in BAD:
            assert f"{name}.eval" in done.output
    # One a judge: those who gave the scores of p.csv are one too.
    assert len(list((tmp_path / "out").rglob(good))) == (1 if command is rescore else 2)
    assert not list((tmp_path / "out").rglob(UNFINISHED))


def test_rescoring_goes_on_and_refuses_other_settings_in_one_folder(logs, tmp_path):
    folder, _ = logs
    skipped = []
    [first] = read_again([folder], Settings(mode="text"), tmp_path / "out", skipped.append)
    assert len(skipped) == len(BAD)
    kept = first.written.stat().st_mtime_ns
    [again] = read_again([folder], Settings(mode="text"), tmp_path / "out")
    assert again == first
    assert first.written.stat().st_mtime_ns == kept
    with pytest.raises(UserError, match="another output folder"):
        read_again([folder], Settings(), tmp_path / "out")


def test_imported_scores_say_that_they_are_and_others_are_read(logs, tmp_path):
    folder, good = logs
    log = read_eval_log(str(folder / good))
    for sample in log.samples:
        sample.scores["em"].metadata = {"alignment": IMPORTED, "coherence": IMPORTED}
    write_eval_log(log, str(folder / "imported.eval"))
    skipped = []
    assert len(read_again([folder], Settings(mode="text"), tmp_path / "out", skipped.append)) == 1
    assert any("imported.eval: its scores were imported" in line for line in skipped)
    with pytest.raises(UserError, match="scores were imported, as numbers without the judge's raw output"):
        read_again([folder / "imported.eval"], Settings(), tmp_path / "other")


def test_two_logs_of_one_name_are_refused_and_unfinished_copies_are_no_logs(logs, tmp_path):
    folder, good = logs
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(UserError, match="have one name"):
        new_places([str(folder / good), str(tmp_path / "copy" / good)], tmp_path / "out")
    (folder / UNFINISHED).mkdir()
    shutil.copy(folder / good, folder / UNFINISHED / "other.eval")
    assert not any("other.eval" in place for place in find_logs([folder]))
