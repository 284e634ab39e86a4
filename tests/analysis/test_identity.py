"""One name is one organism: logs of two under one name are refused; what one organism may do is no clash."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from em_tasks.commands.cli import cli
from em_tasks.plugins.analysis.answers.logs import Reading, read_logs
from em_tasks.plugins.errors import UserError
from tests.support.analysis_logs import base_log, checkpoint_log

BAD, GOOD = (10, 90), (90, 90)
ASKED = {"m1": [BAD]}


def reading(folder: Path, *logs: dict[str, Any]) -> Reading:
    """Logs of the organism `med`, each with changes of its own, read together."""
    for number, changes in enumerate(logs):
        hashes = {key: changes.pop(key) for key in list(changes) if key.endswith("sha256") or "fingerprint" in key}
        checkpoint_log(folder, ASKED, **{"name": f"log{number}", "hashes": hashes, **changes})
    return read_logs([folder])


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"base": "base-a"}, {"base": "base-b"}, "of base base-a in .*log0.eval and base base-b in .*log1.eval"),
        ({"size": "1B"}, {"size": "8B", "step": 20}, "of size 1B in .* and size 8B in"),
        ({"domain": "medical"}, {"domain": "financial"}, "of training domain medical in .* and training domain financ"),
        ({"control": False}, {"control": True}, "of control False in .* and control True in"),
        ({"training_seed": 0}, {"training_seed": 1}, "of training seed 0 in .* and training seed 1 in"),
        (
            {"hashes": {"data": "bad"}},
            {"hashes": {"data": "worse"}},
            "of training data bad in .* and training data wor",
        ),
        ({"base_fingerprint": "a" * 64}, {"base_fingerprint": "b" * 64}, "of base fingerprint a{12} in .* b{12} in"),
        ({"adapter_sha256": "a" * 64}, {"adapter_sha256": "b" * 64}, "at step 10 adapter a{12} in .* adapter b{12} in"),
        ({"recipe_sha256": "a" * 64}, {"recipe_sha256": "b" * 64}, "of recipe a{12} at step 10 in .* b{12} at step 10"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_two_organisms_of_one_name_are_refused(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    checkpoint_log(tmp_path, ASKED, organism="other")
    with pytest.raises(UserError, match=f"one name.*: med is {said}.*folder of their own.*em import --organism NAME"):
        reading(tmp_path, first, second)


def test_a_recipe_that_comes_back_is_of_another_run(tmp_path: Path) -> None:
    steps = ((10, "a"), (20, "b"), (30, "a"))
    with pytest.raises(UserError, match=r"med is of recipe b{12} at step 20 in .* and recipe a{12} at step 30"):
        reading(tmp_path, *({"step": step, "recipe_sha256": letter * 64} for step, letter in steps))


def test_what_one_organism_may_do_is_no_clash(tmp_path: Path) -> None:
    hashes = {"base_fingerprint": "f" * 64, "adapter_sha256": "1" * 64, "recipe_sha256": "a" * 64}
    read = reading(
        tmp_path,
        hashes | {"judge": "judge-a"},
        hashes | {"judge": "judge-b"},
        hashes | {"questions_sha256": "1" * 64, "created": "2026-02-01T00:00:00+00:00"},
        hashes | {"condition": "brief"},
        {"hashes": {"base_fingerprint": None, "data": None}, "training_seed": None},
        # Trained on by a longer recipe.
        hashes | {"step": 20, "adapter_sha256": "2" * 64, "recipe_sha256": "b" * 64},
        hashes | {"step": 30, "adapter_sha256": "3" * 64, "recipe_sha256": "b" * 64},
        *({"organism": f"med-seed{seed}", "training_seed": seed} for seed in (0, 1, 2)),
        {"organism": "med (base-b bf16)", "base": "base-b"},
    )
    assert set(read.answers["organism"]) == {
        *("med", "med [brief]", "med-seed0", "med-seed1", "med-seed2", "med (base-b bf16)"),
    }
    base_log(tmp_path, ASKED, hashes={"base_fingerprint": "0" * 64})
    assert len(read_logs([tmp_path]).evaluations) == 12


def test_em_report_says_it_in_one_paragraph_and_writes_nothing(tmp_path: Path) -> None:
    for number in range(5):
        for base in ("base-a", "base-b"):
            checkpoint_log(
                tmp_path / "logs", ASKED, organism=f"o{number}\n\n\x1b[31m", base=base, name=f"{number}{base}"
            )
    result = CliRunner().invoke(cli, ["report", str(tmp_path / "logs"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "o2 \\x1b[31m is of base base-a in" in result.output
    assert "; and 2 names more." in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
