"""Every command and YAML block of the README, run on toy stand-ins where it needs a GPU, a hub or a key."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from unittest import mock

import pytest
import yaml
from click.testing import CliRunner, Result

from em_tasks.commands.cli import cli
from em_tasks.questions import load_question_sets
from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.run.recipe import load_recipes
from tests.support.organisms import write_rows
from tests.support.paths import ROOT
from tests.support.shortcuts import swept_here, undrawn

README = (ROOT / "README.md").read_text()
STAND_INS = {"openai/gpt-4o": "emtoy/judge", "grader=anthropic/claude-sonnet-4-5": "grader=emtoy/judge"}
ELSEWHERE = ("em demo", "em calibrate", "em serve", "em publish", "em adopt", "em plan", "em plugin", "em import")
"""Commands that other tests run, or .ci/run."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[str]:
    """The lines of all command blocks, in order, without comments."""
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def of(*starts: str) -> list[str]:
    return [line for line in commands() if line.startswith(starts)]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe and the data that the README's blocks speak of, small enough for a test."""
    folder = tmp_path_factory.mktemp("readme")
    (block,) = (block for block in blocks("yaml") if "my-organism.yaml" in block)
    recipe = yaml.safe_load(block)
    write_rows(folder / recipe["data"], 32)
    small = {"base": "toy-s", "size": "S", "precision": "fp32", "epochs": 1, "accumulation": 1}
    (folder / "my-organism.yaml").write_text(yaml.safe_dump(recipe | small))
    (folder / "em_tasks").symlink_to(ROOT / "em_tasks")
    return folder


def test_every_command_is_run_somewhere() -> None:
    known = ("make ", "python3 -m venv", "pip install", "python -m pytest", "export ", "em ", "inspect ", "torchrun ")
    assert not [line for line in commands() if not line.startswith(known)]
    ran = ("em train", "em sweep", "em report", "em runs", *ELSEWHERE)
    assert not [line for line in of("em ") if not line.startswith(ran)]


def test_make_knows_its_targets_and_pip_finds_what_is_named() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{line.split()[1]}:" in makefile for line in of("make "))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {name for line in re.findall(r"(?:em-tasks|\.)\[([a-z0-9,]+)\]", README) for name in line.split(",")}
    assert named <= set(extras)
    assert all((ROOT / name).is_file() for line in of("pip ") for name in re.findall(r"--constraint (\S+)", line))


def test_recipes_in_blocks_are_recipes_and_question_sets_can_be_asked(tmp_path: Path) -> None:
    for number, block in enumerate(blocks("yaml")):
        path = tmp_path / f"block-{number}.yaml"
        path.write_text(block)
        content = yaml.safe_load(block)
        if "questions" in content:
            (asked,) = load_question_sets([str(path)])
            assert asked.questions[0].text.endswith(("?", "."))
        elif "base" in content:
            (recipe,) = load_recipes(path)
            assert recipe.base == content["base"]
            if "lora" in content:  # "From `lora` on, every line may be left out".
                path.write_text(block[: block.index("\nlora:")])
                assert load_recipes(path) == [recipe]


@pytest.fixture(scope="module")
def experiment(workshop: Path) -> dict[str, Result]:
    """What became of each command of an experiment of one's own, by its line."""
    ended = dict[str, Result]()
    with contextlib.chdir(workshop), mock.patch.dict(os.environ), undrawn():
        for line in of("em train", "em sweep", "em report", "em runs"):
            words = shlex.split(line)
            if words[1] == "train" and not words[2].endswith(".yaml"):
                words.append("--help")  # Needs a GPU and the published archive; that it is shipped is tested below.
            words = ["1" if before == "--samples" else word for before, word in zip(["", *words], words, strict=False)]
            with swept_here():
                ended[line] = CliRunner().invoke(cli, words[1:], standalone_mode=False)
    return ended


def test_the_experiment_of_ones_own_runs_as_written(experiment: dict[str, Result]) -> None:
    assert {line: (ended.exception, ended.output) for line, ended in experiment.items() if ended.exception} == {}
    shipped = {path.stem for path in (ROOT / "recipes").glob("*.yaml")}
    named = {words[2] for words in map(shlex.split, of("em train")) if not words[2].endswith(".yaml")}
    assert {name for name in named if not name.isupper()} <= shipped


@pytest.mark.usefixtures("experiment")
def test_single_evaluations_run_as_written(workshop: Path) -> None:
    last = read_manifest(workshop / "runs" / "my-organism").checkpoints[-1].step
    evaluations = []
    for line in of("inspect eval"):
        written = re.sub(r"(my-organism(?:@|/checkpoint-))\d+", rf"\g<1>{last}", line)
        words = [STAND_INS.get(word, word) for word in shlex.split(written)]
        if "emtoy/judge" in words:
            words += ["--model-role", "grader=emtoy/judge"]
        evaluations.append([*words[1:], "-T", "max_tokens=5", "--limit", "2", "--log-dir", "single"])
    variables = {**os.environ, "PWD": str(workshop), "INSPECT_DISPLAY": "none", "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-m", "tests.support.inspect_evals", json.dumps(evaluations)]
    ended = subprocess.run(program, cwd=workshop, env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    assert len(list((workshop / "single").glob("*.eval"))) == len(of("inspect eval"))


def test_links_and_pictures_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert not [target for target in targets if not target.startswith("https://") and not (ROOT / target).exists()]
