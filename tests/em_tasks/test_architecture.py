import ast
import re
import subprocess
import sys
from pathlib import Path

from tests.support.house import tree, written
from tests.support.paths import ROOT

PYTHON = sorted((ROOT / "tests").rglob("*.py"))


def test_the_tree_in_the_documentation_is_the_tree_on_disk() -> None:
    assert written() == tree(), "make tree writes it again"


def test_every_file_says_what_it_is() -> None:
    assert not [line for line in tree().splitlines() if len(line.split(maxsplit=1)) < 2]


def test_the_arrows_between_rooms_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    ended = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


def test_no_test_imports_another() -> None:
    for path in PYTHON:
        names = [
            node.module or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)
        ]
        assert not [name for name in names if re.match(r"tests\.(?!support\b)", name)], path


def test_rooms_stay_small_enough_to_look_through() -> None:
    for room in ("em_tasks", "trainers", "scorers", "plugins"):
        for folder in (path for path in (ROOT / room).rglob("*") if path.is_dir() and not path.is_symlink()):
            files = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
            # Commands are one file each, however many there are.
            assert len(files) <= 12, folder
