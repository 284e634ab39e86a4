"""A package of somebody else's: begun with `em plugin new`, built, installed and used through the ordinary commands."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log

from em_tasks.plugins.entry_points import CONDITIONS, QUESTIONS, TABLES, functions, plugin_files, plugins
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.template.writing import write_plugin
from tests.support.paths import ROOT


def test_the_example_is_what_the_command_writes(tmp_path: Path) -> None:
    written = write_plugin("em-tasks-example", tmp_path)
    example = ROOT / "examples" / "plugin"
    for path in written:
        assert path.read_text() == (example / path.relative_to(tmp_path / "em-tasks-example")).read_text(), path.name


def test_the_package_that_it_writes_imports_nothing_slow(tmp_path: Path) -> None:
    write_plugin("quick", tmp_path)
    program = "import sys, quick; print(sorted({'pandas', 'matplotlib'} & set(sys.modules)))"
    command = [sys.executable, "-c", program]
    assert subprocess.check_output(command, cwd=tmp_path / "quick", text=True, timeout=60) == "[]\n"


@pytest.mark.parametrize("name", ["", "1st", "a/b", "../out", "-a", "a b", "class!"])
def test_names_that_no_package_can_have_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be a package's name"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["em_tasks", "inspect-ai", "json"])
def test_names_of_packages_that_are_here_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"A package {name.replace('-', '_')} can be imported here already"):
        write_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment over this one's packages, into which the skeleton was built and installed."""
    folder = tmp_path_factory.mktemp("plugin")
    write_plugin("sleep-well", folder)
    built = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), "."]
    subprocess.run(built, cwd=folder / "sleep-well", check=True, capture_output=True, timeout=120)
    venv.create(folder / "venv", with_pip=False)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    for wheel in folder.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    (site / "around.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in _packages()))
    return folder


def _packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def run(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    python = str(home / "venv" / "bin" / "python")
    environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "1", "INSPECT_DISPLAY": "none"}
    return subprocess.run(
        [python, "-W", "ignore", "-m", *command],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_what_it_gives_is_listed_with_its_version(home: Path) -> None:
    listed = run(home, "em_tasks", "plugin", "list").stdout
    for group in ("questions", "conditions", "rubrics", "tables", "figures"):
        assert f"em_tasks.{group}  sleep_well" in listed, listed
    assert "sleep-well 0.1.0" in listed


def test_its_questions_and_condition_are_asked_and_stand_in_the_log(home: Path) -> None:
    arguments = ["eval", "em_tasks/em", "--model", "mockllm/model", "--model-role", "grader=emtoy/judge"]
    arguments += ["-T", "questions=sleep_well_questions", "-T", "condition=sleep_well-brief", "--log-dir", "logs"]
    asked = run(home, "inspect_ai", *arguments)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    (log,) = (home / "logs").glob("*.eval")
    header = read_eval_log(str(log))
    given = {entry["name"]: entry["package"] for entry in header.eval.metadata["plugins"]}
    assert given == {"sleep_well_questions": "sleep-well 0.1.0", "sleep_well-brief": "sleep-well 0.1.0"}
    assert all(len(entry["sha256"]) == 64 for entry in header.eval.metadata["plugins"])
    assert header.samples[0].messages[0].text == "Answer in one sentence."
    assert {sample.id for sample in header.samples} == {"sleep_well_1", "sleep_well_2"}


def test_its_own_tests_pass(home: Path) -> None:
    passed = run(home, "pytest", "-q", "-p", "no:cacheprovider", str(home / "sleep-well" / "tests"))
    assert passed.returncode == 0, passed.stdout
    assert "8 passed" in passed.stdout


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages of which each is broken in another way."""
    for name, points in {
        "cannot": {"questions": "cannot_import_this:QUESTIONS"},
        "wrong": {"questions": "json:dumps", "tables": "json:__name__"},
        "greedy": {"questions": "greedy:QUESTIONS", "conditions": "greedy:CONDITIONS"},
    }.items():
        info = tmp_path / f"{name}-2.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(
            "".join(f"[em_tasks.{group}]\n{name} = {value}\n" for group, value in points.items())
        )
    (tmp_path / "medical.yaml").write_text("name: medical\n")
    (tmp_path / "fine.yaml").write_text("name: fine\n")
    (tmp_path / "greedy.py").write_text(
        "from pathlib import Path\nQUESTIONS = Path(__file__).parent\nCONDITIONS = '/nowhere/at/all'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_broken_packages_are_named_with_their_version_and_the_rest_works(broken: None) -> None:
    files, notes = plugin_files(QUESTIONS, (".yaml",), taken={"medical"})
    assert list(files) == ["fine"]
    said = " ".join(notes)
    assert "cannot of cannot 2.0 (em_tasks.questions) could not be loaded" in said
    assert "wrong of wrong 2.0 (em_tasks.questions) was left out" in said
    assert "the name medical is taken" in said
    assert "'/nowhere/at/all', not a file" in " ".join(plugin_files(CONDITIONS, (".yaml",))[1])
    tables, notes = functions(TABLES)
    assert "wrong of wrong 2.0 (em_tasks.tables) was left out" in " ".join(notes)
    assert {plugin.package.split()[0] for plugin in tables} == {"em-tasks"}
    assert json.dumps(sorted(plugin.name for plugin in plugins(TABLES)[0])) == '["em_tasks", "wrong"]'
