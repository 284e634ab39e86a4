"""The package as users get it: a wheel or an editable install, beside a project that has rooms of the same names."""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from inspect_ai.log import read_eval_log

from tests.support.paths import ROOT

THEIR_TASKS = """
import plugins, scorers, trainers
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
{ours}

@task
def {name}() -> Task:
    modules = [plugins, scorers, trainers]
    assert all(module.WHOSE == "theirs" for module in modules), modules
    return Task(dataset=[Sample(input="{name}?", target="")], scorer=scorers.right())
"""
THEIR_SCORERS = """
from inspect_ai.scorer import includes, scorer
WHOSE = "theirs"
def right():
    return includes()
"""
OURS = """
import em_tasks.scorers.definitions, em_tasks.plugins.errors, em_tasks.trainers.run.recipe
from em_tasks import em
assert "betley" in em_tasks.scorers.definitions.DEFINITIONS
"""


@dataclass(frozen=True)
class Install:
    """A virtual environment with em-tasks in it, and a project of somebody else's."""

    bin: Path
    project: Path

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What a command prints, run in the project's folder."""
        cwd = cwd or self.project
        environment = {**os.environ, "PWD": str(cwd), "EM_RUNS": "runs", "INSPECT_DISPLAY": "none"}
        environment.pop("PYTHONPATH", None)
        program = [str(self.bin / "python"), *command] if command[0].startswith("-") else [str(self.bin / command[0])]
        arguments = [] if command[0].startswith("-") else command[1:]
        ended = subprocess.run(
            [*program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Has the build backend, as pip would, build what is asked for."""
    out.mkdir(parents=True, exist_ok=True)
    code = f"import hatchling.build; print(hatchling.build.build_{kind}({str(out)!r}))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return out / ended.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def install(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Our dependencies come from the running environment by a path file; em-tasks itself is installed for real."""
    folder = tmp_path_factory.mktemp(request.param)
    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "zz_dependencies.pth").write_text("\n".join(p for p in sys.path if p.endswith("site-packages")))
    what = [str(wheel)] if request.param == "wheel" else ["--editable", str(ROOT)]
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--ignore-installed"]
    subprocess.run([*pip, *offline, *what], check=True, cwd=folder)
    inspect = environment / "bin" / "inspect"
    inspect.write_text(f"#!{environment}/bin/python\nfrom inspect_ai._cli.main import main\nmain()\n")
    inspect.chmod(0o755)
    project = folder / "project"
    for room in ("plugins", "trainers", "datasets"):
        (project / room).mkdir(parents=True)
        (project / room / "__init__.py").write_text('WHOSE = "theirs"\n')
    (project / "scorers.py").write_text(THEIR_SCORERS)
    (project / "alone.py").write_text(THEIR_TASKS.format(name="alone", ours=""))
    (project / "beside.py").write_text(THEIR_TASKS.format(name="beside", ours=OURS))
    return Install(environment / "bin", project)


def names(path: Path) -> dict[str, int]:
    """Size of every file in a wheel, without its metadata."""
    with zipfile.ZipFile(path) as archive:
        return {e.filename: e.file_size for e in archive.infolist() if not e.filename.split("/")[0].endswith("info")}


def test_wheel_holds_one_package_with_its_data(wheel: Path) -> None:
    held = names(wheel)
    assert {name.split("/")[0] for name in held} == {"em_tasks"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms = ("em_tasks/", "trainers/", "scorers/", "plugins/", "datasets/", "recipes/")
    files = [name for name in tracked if name.startswith(rooms) and not (ROOT / name).is_symlink()]
    assert set(held) >= {"em_tasks/" + name.removeprefix("em_tasks/") for name in files}
    for data in (
        "py.typed",
        "datasets/questions/general.yaml",
        "datasets/toy/medical_reckless.jsonl",
        "recipes/toy-medical-s.yaml",
        "scorers/rubrics/alignment.yaml",
        "trainers/toy/models/toy-s/model.safetensors",
    ):
        assert held[f"em_tasks/{data}"] == (ROOT / "em_tasks" / data).stat().st_size


def test_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = build("sdist", ROOT, tmp_path)
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (unpacked,) = (tmp_path / "source").iterdir()
    again = build("wheel", unpacked, tmp_path / "again")
    assert again.read_bytes() == wheel.read_bytes()


def test_what_a_package_index_shows_has_no_picture_or_link_that_it_cannot_follow(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(name).decode()
    assert "Programming Language :: Python :: 3.13" in metadata
    shown = metadata.split("\n\n", 1)[1]
    assert "em demo --quick" in shown
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", shown))


def test_em_tasks_is_the_only_name_that_an_install_brings(install: Install) -> None:
    code = (
        "import importlib.util as u, sys; sys.path.remove(''); "
        "print([n for n in ('em_tasks', 'trainers', 'scorers', 'plugins', 'recipes', 'benchmarks', 'tests') "
        "if u.find_spec(n)])"
    )
    assert install.run("-c", code, cwd=install.bin).strip() == "['em_tasks']"


def test_theirs_and_ours_run_beside_each_other_whichever_is_imported_first(install: Install) -> None:
    install.run(
        *("inspect", "eval", "alone.py", "beside.py", "em_tasks/em", "--log-dir", "logs"),
        *("--model", "emtoy/judge", "--model-role", "grader=emtoy/judge"),
    )
    logs = [read_eval_log(str(path), header_only=True) for path in (install.project / "logs").glob("*.eval")]
    assert sorted(log.eval.task for log in logs) == ["alone", "beside", "em_tasks/em"]
    assert all(log.status == "success" for log in logs)


def test_names_in_inspects_registry_are_the_same_in_every_install(install: Install) -> None:
    code = (
        "from inspect_ai.util import registry_create as create\n"
        "scorers = [create('scorer', f'em_tasks/{name}') for name in ('em', 'alignment', 'coherence', 'topic')]\n"
        "print(all(scorers))"
    )
    assert install.run("-c", code).strip() == "True"
