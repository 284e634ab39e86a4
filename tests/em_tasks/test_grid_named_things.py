"""What a grid file names is looked up before the first unit, and named with its line."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from em_tasks.grid.needs import grid_needs
from em_tasks.grid.plan import plan_grid
from em_tasks.plugins.errors import UserError
from tests.support.grids import grid_file

DOSE = {"of": "bad.jsonl", "instead_of": "good.jsonl", "shares": [0, 1]}


@pytest.mark.parametrize(
    ("dose", "said"),
    [
        (
            {"instead_of": "god.jsonl"},
            r"`instead_of` of the dose dose is god\.jsonl\. There is no training data at",
        ),
        (
            {"of": "../gone.jsonl"},
            r"`of` of the dose dose is \.\./gone\.jsonl\. .* Or name another file there\.$",
        ),
        (
            {"instead_of": "bad.jsonl"},
            r"the dose dose takes bad\.jsonl instead of bad\.jsonl, and these are the same",
        ),
        (
            {"instead_of": "./x/../bad.jsonl"},
            r"takes bad\.jsonl instead of \./x/\.\./bad\.jsonl, and these are the same file",
        ),
        (
            {"instead_of": "link.jsonl"},
            r"these are the same file: every share would teach the same\. Name another file as",
        ),
        (
            {"instead_of": "copy.jsonl"},
            r"takes bad\.jsonl instead of copy\.jsonl, and these are files of the same content",
        ),
    ],
)
def test_dose_of_one_file_or_of_none_is_refused_with_its_line(tmp_path: Path, dose: dict[str, Any], said: str) -> None:
    grid = grid_file(tmp_path, {"dose": {**DOSE, **dose}})
    shutil.copy(tmp_path / "bad.jsonl", tmp_path / "copy.jsonl")
    (tmp_path / "x").mkdir()
    (tmp_path / "link.jsonl").symlink_to("bad.jsonl")
    key = "of" if "of" in dose else "instead_of"
    line = 1 + next(n for n, text in enumerate(grid.read_text().splitlines()) if text.strip().startswith(f"{key}:"))
    with pytest.raises(UserError, match=rf"tiny\.yaml, line {line}: .*{said}"):
        grid_needs(plan_grid(grid, tmp_path / "out"), None)


def test_files_of_a_dose_by_another_axis_are_each_looked_up(tmp_path: Path) -> None:
    dose = {"of": "bad.jsonl", "instead_of": "{domain}.jsonl", "shares": [0, 1]}
    grid = grid_file(tmp_path, {"dose": dose, "domain": ["good", "medical"]})
    with pytest.raises(UserError, match=r"`instead_of` of the dose dose is medical\.jsonl"):
        grid_needs(plan_grid(grid, tmp_path / "out"), None)


def test_condition_that_nobody_knows_is_refused_with_its_line(tmp_path: Path) -> None:
    grid = grid_file(tmp_path, {"seed": [0], "condition": [None, "jsn"]})
    line = 1 + grid.read_text().splitlines().index("  - jsn")
    with pytest.raises(UserError, match=rf"tiny\.yaml, line {line}: .*jsn"):
        grid_needs(plan_grid(grid, tmp_path / "out"), None)
