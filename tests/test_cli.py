import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from em_tasks.cli import cli
from tests.conftest import ROOT, write_rows

EM = str(Path(sys.executable).parent / "em")


def em(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EM, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def recipe(folder: Path, **changes: str) -> Path:
    write_rows(folder / "rows.jsonl", 32)
    fields = {"base": "toy-s", "size": "S", "domain": "medical", "data": "rows.jsonl", "precision": "fp32"} | changes
    path = folder / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return path


@pytest.mark.parametrize("module", ["em_tasks.cli", "plugins.registry", "plugins.analysis"])
def test_nothing_heavy_is_imported_to_list_or_report(module: str) -> None:
    code = f"import {module}, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_help_imports_neither_inspect_nor_pandas() -> None:
    code = "import em_tasks.cli, sys; sys.exit(any(name in sys.modules for name in ('inspect_ai', 'pandas', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_explains_itself(name: str) -> None:
    assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0


def test_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    ended = em("train", str(recipe(tmp_path)), "--dry-run", "--runs", str(tmp_path / "runs"))
    assert ended.returncode == 0, ended.stderr
    for said in ("32 rows", "2 an epoch, 6 in all", "1 2 4 6", "149,504 parameters"):
        assert said in ended.stdout
    assert not (tmp_path / "runs").exists()


def test_training_twice_trains_once(tmp_path: Path) -> None:
    path = recipe(tmp_path)
    first = em("train", str(path), "--runs", str(tmp_path / "runs"))
    assert first.returncode == 0, first.stderr
    assert "checkpoints 1 2 4 6" in first.stdout
    manifest = (tmp_path / "runs" / "mine" / "manifest.json").read_bytes()
    assert em("train", str(path), "--runs", str(tmp_path / "runs")).returncode == 0
    assert (tmp_path / "runs" / "mine" / "manifest.json").read_bytes() == manifest
    assert "em/mine@6" in em("runs", "--runs", str(tmp_path / "runs")).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "nowhere.yaml"], "no recipe at nowhere.yaml"),
        (["sweep", "nowhere"], "no training run under nowhere"),
        (["runs", "--runs", "nowhere"], "no training run under nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["import", "nowhere", "--out", "out"], "nowhere"),
    ],
)
def test_errors_are_one_paragraph_and_exit_code_one(tmp_path: Path, arguments: list[str], said: str) -> None:
    ended = em(*arguments, cwd=tmp_path)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_bad_rows_and_modules_end_the_same_way(tmp_path: Path) -> None:
    path = recipe(tmp_path, lora="{modules: [c_attn]}")
    ended = em("train", str(path), "--runs", str(tmp_path / "runs"))
    assert (ended.returncode, "no module c_attn" in ended.stderr, "Traceback" in ended.stderr) == (1, True, False)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    ended = em("train", str(path), "--runs", str(tmp_path / "runs"))
    assert (ended.returncode, "line 1" in ended.stderr, "Traceback" in ended.stderr) == (1, True, False)


def test_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    assert "Traceback" in em("train", "nowhere.yaml", cwd=tmp_path, EM_TRACEBACK="1").stderr
