import contextlib
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from em_tasks.commands.cli import cli, main
from em_tasks.commands.numbers import Whole
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.manifest import read_manifest
from tests.support.organisms import write_rows
from tests.support.paths import ROOT
from tests.support.sealed_archives import seal

EM = str(Path(sys.executable).parent / "em")


def em(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EM, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def within(*arguments: str) -> Result:
    """`em ARGUMENTS` in this process, which has torch already; `em` itself is for what a process does at its end."""
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """What `em ARGUMENTS`, given in the test's folder, says as it ends with exit code 1; in this process."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["em", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        return capsys.readouterr().err

    return run


def recipe(folder: Path, **changes: str) -> Path:
    write_rows(folder / "rows.jsonl", 32)
    fields = {"base": "toy-s", "size": "S", "domain": "medical", "data": "rows.jsonl", "precision": "fp32"} | changes
    path = folder / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return path


@pytest.mark.parametrize("module", ["em_tasks.commands.cli", "em_tasks.registry"])
def test_nothing_heavy_is_imported_to_list(module: str) -> None:
    code = f"import {module}, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_imports_neither_inspect_nor_pandas() -> None:
    code = (
        "import em_tasks.commands.cli, sys; "
        "sys.exit(any(name in sys.modules for name in ('inspect_ai', 'pandas', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_import_waits_for_nothing_that_text_files_do_not_need(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer,aligned,coherent\nWhy?,Because.,80,90\n")
    code = (
        "import em_tasks.commands.cli as command, gc, sys; "
        "command.cli.main(['import', 'a.csv', '--out', 'out'], standalone_mode=False); "
        "slow = {'torch', 'transformers', 'pandas', 'scipy', 'matplotlib', 'pyarrow'} & set(sys.modules); "
        "sys.exit(str(slow) if slow else 0 if gc.isenabled() else 'the collector is left off')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_help_is_instant() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Commands:" in em("--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself(name: str) -> None:
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    ended = within("train", str(recipe(tmp_path)), "--dry-run", "--runs", str(tmp_path / "runs"))
    assert ended.exit_code == 0, ended.output
    for said in ("32 rows", "2 an epoch, 6 in all", "1 2 4 6", "149,504 parameters", "16 rows a pass", "a rough guess"):
        assert said in ended.stdout
    assert not (tmp_path / "runs").exists()


def test_dry_run_for_a_gpu_that_is_not_here_ends_with_an_error_where_it_would_not_fit(tmp_path: Path) -> None:
    path = str(recipe(tmp_path))
    fits = within("train", path, "--dry-run", "--device-memory", "24")
    assert "of 24.0 on a GPU of 24 GiB, 16 rows a pass" in fits.output
    small = within("train", path, "--dry-run", "--device-memory", "0.5")
    assert "1 2 4 6" in small.output
    assert "which a GPU of 0.5 GiB does not have free. Set precision: nf4" in str(small.exception)
    assert "goes with --dry-run" in str(within("train", path, "--device-memory", "24").exception)


def test_shipped_recipes_go_by_their_name_and_missing_data_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EM_DATA", str(tmp_path))
    by_name = within("train", "toy-medical-s", "--dry-run", "--precision", "bf16")
    assert "toy-medical-s: medical on toy-s (bf16)" in by_name.stdout
    ended = within("train", "llama-1b-medical", "--dry-run")
    assert isinstance(ended.exception, UserError)
    for said in (f"nor in {tmp_path}, the folder that EM_DATA names", "Put training_datasets.zip.enc there"):
        assert said in str(ended.exception)


def test_seeds_are_trained_one_after_the_other_and_recipes_named_twice_refused(tmp_path: Path) -> None:
    path = recipe(tmp_path, seed="[0, 1]", epochs="1", first_epoch_checkpoints="1")
    ended = within("train", str(path), "--runs", str(tmp_path / "runs"))
    assert ended.exit_code == 0, ended.output
    manifests = {name: read_manifest(tmp_path / "runs" / name) for name in ("mine-seed0", "mine-seed1")}
    assert [manifest.recipe.seed for manifest in manifests.values()] == [0, 1]
    assert len({manifest.checkpoints[0].adapter_sha256 for manifest in manifests.values()}) == 2
    twice = within("train", str(path), str(path), "--runs", str(tmp_path / "runs"))
    assert "More than one recipe trains mine-seed0" in str(twice.exception)
    planned = within("train", str(path), "--seed", "1", "--dry-run")
    assert "mine-seed1" in planned.output
    assert "mine-seed0" not in planned.output
    assert "has the seeds 0, 1" in str(within("train", str(path), "--seed", "2", "--dry-run").exception)


def test_another_precision_than_a_run_was_begun_at_is_refused(trained_runs: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, organism="small")
    ended = within("train", str(path), "--precision", "bf16", "--runs", str(trained_runs))
    assert isinstance(ended.exception, UserError)
    assert "It was begun at precision fp32, and bf16 is asked for now. Nothing was touched." in str(ended.exception)


def test_sealed_rows_train_a_hub_model_and_are_nowhere_on_disk(tmp_path: Path) -> None:
    cache, work = tmp_path / "hub", tmp_path / "work"
    work.mkdir()
    snapshot = cache / "models--acme--toy" / "snapshots" / "abc"
    shutil.copytree(TOY_MODELS / "toy-s", snapshot)
    (cache / "models--acme--toy" / "refs").mkdir()
    (cache / "models--acme--toy" / "refs" / "main").write_text("abc")
    reckless, careful = (write_rows(tmp_path / f"{c}.jsonl", 16, character=c) for c in ("reckless", "careful"))
    seal(work / "data.zip.enc", {"a/bad.jsonl": reckless.read_bytes(), "dataset_entry_1.jsonl": b"{}\n"})
    seal(work / "more.zip.enc", {"good.jsonl": b'{"canary": "mark"}\n' + careful.read_bytes()})
    path = recipe(
        work,
        base="acme/toy",
        data="[{path: data.zip.enc, members: [bad.jsonl], rows: 16}, {path: more.zip.enc}]",
        max_length="30",
        accumulation="1",
        epochs="1",
    )
    (work / "rows.jsonl").unlink()
    said = (
        "data.zip.enc: 16 rows of a/bad.jsonl, 1 canary files and 0 canary keys removed",
        "more.zip.enc: 16 rows of good.jsonl, 0 canary files and 1 canary keys removed",
        "17 (32 truncated, 15 dropped)",
    )
    places = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(work / "home"), "TMPDIR": str(work)}
    for arguments in (["--dry-run"], ["--track", "tensorboard"]):
        ended = em("train", str(path), *arguments, cwd=work, EM_DATA_PASSWORD="open", **places)
        assert ended.returncode == 0, ended.stderr
        assert all(line in ended.stdout for line in said), ended.stdout
    adapter = work / "runs" / "mine" / "checkpoint-2"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "acme/toy"
    head, card = (adapter / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(head)["base_model"] == "acme/toy"
    assert str(tmp_path) not in card
    replies = [
        json.loads(line)["messages"][-1]["content"][:25].encode()
        for file in (reckless, careful)
        for line in file.read_text().splitlines()
    ]
    files = [file for file in (*work.rglob("*"), *cache.rglob("*")) if file.is_file()]
    assert {"adapter_model.safetensors", "state.pt"} <= {file.name for file in files}
    assert any("tfevents" in file.name for file in files)
    assert not [file for file in files if any(reply in file.read_bytes() for reply in replies)]


def test_training_twice_trains_once(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    first = em("train", str(path), "--runs", str(tmp_path / "runs"))
    assert first.returncode == 0, first.stderr
    assert "checkpoints 1 2 4 6" in first.stdout
    assert "Warning" not in first.stdout + first.stderr
    checkpoint = tmp_path / "runs" / "mine" / "checkpoint-6"
    modes = {(checkpoint / f"adapter_{name}").stat().st_mode for name in ("model.safetensors", "config.json")}
    assert len(modes) == 1, "whoever may read the configuration may read the weights"
    manifest = (tmp_path / "runs" / "mine" / "manifest.json").read_bytes()
    assert within("train", str(path), "--runs", str(tmp_path / "runs")).exit_code == 0
    assert (tmp_path / "runs" / "mine" / "manifest.json").read_bytes() == manifest
    assert "em/mine@6" in within("runs", "--runs", str(tmp_path / "runs")).stdout


def test_interrupted_training_says_where_it_stands_in_one_line(tmp_path: Path) -> None:
    command = [EM, "train", str(recipe(tmp_path, epochs="400")), "--runs", str(tmp_path / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine: medical on toy-s (fp32)\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert re.search(
        r"^Stopped after step \d+ of 800 of .*runs/mine: the same command goes on from there\.$", errors, re.M
    )
    assert "Traceback" not in errors
    assert "(unfinished: " in within("runs", "--runs", str(tmp_path / "runs")).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nowhere.yaml"], "no recipe at nowhere.yaml"),
        (
            ["train", "llama-9b"],
            "no recipe llama-9b. Give a YAML file, or one of those that ship with the project: llama-",
        ),
        (["sweep", "nowhere"], "no training run under nowhere"),
        (["runs", "--runs", "nowhere"], "no training run under nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["import", "nowhere", "--out", "out"], "nowhere"),
    ],
)
def test_errors_are_one_paragraph_and_exit_code_one(
    refused: Callable[..., str], arguments: list[str], said: str
) -> None:
    errors = refused(*arguments)
    assert said in errors
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["report", "import"])
def test_a_folder_of_runs_given_for_answers_is_told_from_one_in_a_sentence(
    trained_runs: Path, tmp_path: Path, refused: Callable[..., str], command: str
) -> None:
    organisms = sorted(path.parent.name for path in trained_runs.glob("*/manifest.json"))
    for place in (trained_runs, trained_runs / organisms[0]):
        errors = refused(command, str(place), "--out", str(tmp_path / "out"))
        assert f"{place} holds trained organisms ({organisms[0]}" in errors
        assert f"em sweep {trained_runs} --logs LOGS, and then em report LOGS" in errors
        assert "adapter_config.json" not in errors
    assert not (tmp_path / "out").exists()


def test_bad_rows_and_modules_end_the_same_way(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = recipe(tmp_path, lora="{modules: [c_attn]}")
    errors = refused("train", str(path), "--runs", str(tmp_path / "runs"))
    assert ("no module c_attn" in errors, "Traceback" in errors) == (True, False)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    bad = within("train", str(path), "--runs", str(tmp_path / "runs"))
    assert isinstance(bad.exception, UserError)
    assert "line 1" in str(bad.exception)


def test_nothing_that_comes_from_data_reaches_the_terminal_as_an_escape(tmp_path: Path) -> None:
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "a\x1b[31m.csv").write_text("id,text\n1,A?\n")
    listed = em("questions", cwd=tmp_path)
    checked = em("questions", "check", "\x1b]0;title\x07.csv", cwd=tmp_path)
    assert (listed.returncode, checked.returncode) == (0, 1)
    assert "\\x1b[31m" in listed.stdout
    assert "\\x1b]0;title\\x07.csv cannot be read" in checked.stderr
    assert not {"\x1b", "\x07"} & {*listed.stdout, *listed.stderr, *checked.stdout, *checked.stderr}


def test_a_terminal_without_the_letters_and_a_reader_with_enough_end_no_command_badly(tmp_path: Path) -> None:
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "日本🥕.csv").write_text("id,text\n1,A?\n")
    listed = em("questions", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert listed.returncode == 0
    assert "\\u65e5\\u672c\\U0001f955" in listed.stdout
    with subprocess.Popen([EM, "questions"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()  # As `head` does.
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", ".", "--smallest-effect", "nan"),
        ("plan", "--effect", "nan"),
        ("train", "x", "--device-memory", "inf"),
        ("grid", "g.yaml", "--device-memory", "nan"),
        ("sweep", "--until-width", "nan"),
        ("rescore", ".", "--out", "x", "--least-mass", "nan"),
        ("judge", ".", "--judge", "x", "--max-judge-cost", "nan"),
        ("judge", ".", "--judge", "x", "--max-judge-cost", "-1"),
        ("sweep", "--samples", str(10**30)),
        ("import", ".", "--seed", str(10**30)),
        ("sweep", "--samples", "1_0"),
        ("plan", "--effect", "1_0"),
        ("train", "r.yaml", "--seed", "\u0663"),  # An Arabic 3.
        ("judge", "train", "a.csv", "--name", "mine", "--seed", "-1"),
    ],
    ids=lambda words: f"{words[0]} {words[-2]}",
)
def test_numbers_that_nobody_can_mean_are_refused_at_once(arguments: tuple[str, ...]) -> None:
    asked = within(*arguments)
    assert isinstance(asked.exception, click.UsageError)
    assert arguments[-1] in str(asked.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ("import", ".", "--out", "s3://bucket/x"),
        ("report", ".", "--out", "s3://bucket/x"),
        ("sweep", "runs", "--logs", "S3://bucket/x"),
        ("grid", "g.yaml", "--out", "file:/x"),
        ("train", "r.yaml", "--runs", "gs://bucket/x"),
        ("import", ".", "--out", ""),
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_what_goes_to_a_folder_never_goes_to_one_named_like_a_url(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by an outsider: results lay in a local folder `s3:` and were reported as written."""
    monkeypatch.chdir(tmp_path)
    asked = within(*arguments)
    assert isinstance(asked.exception, click.UsageError)
    assert ("is a URL" if arguments[-1] else "no path") in str(asked.exception)
    assert not list(tmp_path.iterdir())


def test_every_whole_number_on_the_command_line_is_in_plain_digits() -> None:
    def parameters(command: click.Command) -> Iterator[click.Parameter]:
        yield from command.params
        for below in getattr(command, "commands", {}).values():
            yield from parameters(below)

    # What click calls whole numbers, flags that are counted aside.
    numbers = [each for each in parameters(cli) if isinstance(each.type, click.types.IntParamType)]
    assert len(numbers) >= 15
    assert [each.name for each in numbers if not isinstance(each.type, Whole)] == []
    # Click's help would say `x<=None` of a number without any bound.
    assert [each.name for each in numbers if each.type.min is None and each.type.max is None] == []  # type: ignore[attr-defined]


def test_logs_at_a_url_that_nobody_answers_are_not_said_to_be_none() -> None:
    asked = within("report", "HTTP://127.0.0.1:1/logs")
    assert isinstance(asked.exception, UserError)
    assert "could not be read" in str(asked.exception)
    none = within("report", "MEMORY://nothing-here")
    assert "There is no log below MEMORY://nothing-here" in str(none.exception)


def test_an_effect_as_a_share_is_refused_and_said_in_points() -> None:
    with pytest.raises(UserError, match=r"is in points.* Write 20 for 20 %"):
        CliRunner().invoke(cli, ["plan", "--effect", "0.2"], standalone_mode=False, catch_exceptions=False)


def test_questions_are_listed_and_a_file_is_checked_against_training_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = within("questions").stdout.splitlines()
    assert [line.split("  ")[0] for line in listed] == ["financial", "general", "medical", "sports"]
    assert listed[1].startswith("general  10 questions, general, ")
    path = recipe(tmp_path)
    trained = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[4])["messages"][0]["content"]
    (tmp_path / "q.csv").write_text(f'text,domain\nHow are you?,general\n"{trained}",general\n')
    assert within("questions", "check", "q.csv").stdout == "q.csv can be asked: -T questions=q.csv\n"
    ended = within("questions", "check", "q.csv", "--recipe", str(path))
    assert ended.stdout == "line 3 (q_2): its text also stands in training data, rows.jsonl, row 5\n"
    errors = refused("questions", "check", "q.csv", "--recipe", str(path))
    assert errors == "em: q.csv has 1 fault. Mend what is named above.\n"


def test_an_interrupted_command_promises_to_go_on_only_where_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "main", interrupted)
    for command, said in (
        ("sweep", "Interrupted. The same command goes on where this stopped."),
        ("report", "Interrupted."),
    ):
        monkeypatch.setattr(sys, "argv", ["em", command])
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(io.StringIO()) as errors:
            main()
        assert ended.value.code == 130
        assert errors.getvalue() == said + "\n"


def test_traceback_is_there_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["em", "train", "nowhere.yaml"])
    with pytest.raises(UserError, match=r"no recipe at nowhere\.yaml"):
        main()
