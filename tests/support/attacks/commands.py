"""The command line: commands with arguments and options of any kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from hypothesis import strategies as st

from em_tasks.commands.cli import cli
from em_tasks.plugins.errors import UserError
from tests.support.attacks.kind import Kind
from tests.support.attacks.training import RECIPE, ROW
from tests.support.hostile import as_csv, as_json, as_yaml, texts
from tests.support.judged_files import ROWS

ARGUMENTS = st.sampled_from(
    ["IN", "IN/nowhere", "OUT", ".", "/dev/null", "/proc/self/mem", "toy-s@base", "betley"]
) | texts.filter(lambda text: "\0" not in text and text.isprintable())
"""What a shell can hand over: no NUL, no half characters."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "runs": ("--runs",),
    "questions": (),
    "questions check": ("--recipe",),
    "import": ("--organism", "--map", "--step", "--base", "--domain", "--judge", "--of-base", "--dry-run"),
    "report": ("--definition", "--example", "--claims", "--smallest-effect"),
    "rescore": ("--mode", "--least-mass"),
    "train": ("--dry-run", "--precision", "--device-memory"),
    "export": ("--runs",),
    "sweep": ("--dry-run", "--samples", "--base", "--questions", "--condition", "--precision"),
}


@st.composite
def commands(draw: Callable[[Any], Any]) -> list[str]:
    """A command with arguments and options of its own; those that would train or ask stop at their plans."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    given = draw(st.lists(ARGUMENTS, max_size=2))
    for option in draw(st.lists(st.sampled_from(COMMANDS[name]), max_size=2, unique=True)) if COMMANDS[name] else []:
        given += [option] if option in ("--dry-run", "--of-base") else [option, draw(ARGUMENTS)]
    if "--dry-run" in COMMANDS[name] and "--dry-run" not in given:
        given.append("--dry-run")
    if name in ("report", "import", "rescore", "export"):
        given += ["--out", "OUT/made"]
    return [*name.split(), *given]


def write_for_commands(content: list[str], folder: Path, kept: Path) -> Path:
    as_csv_file = folder / "answers" / "a.csv"
    as_csv_file.parent.mkdir()
    as_csv_file.write_text(as_csv([list(ROWS[0]), *(list(row.values()) for row in ROWS)]))
    (folder / "r.yaml").write_text(as_yaml({**RECIPE, "data": "rows.jsonl", "seed": 0}))
    (folder / "rows.jsonl").write_text(f"{as_json(ROW)}\n" * 20)
    return folder


def attack_commands(content: list[str], path: Path, out: Path) -> None:
    places = {"IN": str(path), "IN/nowhere": str(path / "nowhere"), "OUT": str(out), "OUT/made": str(out / "made")}
    try:
        cli.main([places.get(word, word) for word in content], standalone_mode=False)
    except UserError:
        raise
    except (click.ClickException, click.exceptions.Exit):
        pass
    except OSError as error:
        if error.errno is None:  # The command line says the others in their own words.
            raise


KINDS = (Kind("commands", 5, commands(), write_for_commands, attack_commands),)
