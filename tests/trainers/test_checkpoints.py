import shutil
from pathlib import Path

import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.checkpoints import find_checkpoint, list_runs, verify
from em_tasks.trainers.run.manifest import read_manifest


@pytest.fixture
def runs(trained_runs: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(trained_runs, tmp_path / "runs")
    return tmp_path / "runs"


def test_saved_checkpoints_are_found_and_sound(runs: Path) -> None:
    checkpoint = find_checkpoint(runs, "small@4")
    verify(checkpoint)
    assert checkpoint.folder == runs / "small" / "checkpoint-4"
    assert find_checkpoint(runs, "small@base").record is None
    assert find_checkpoint(runs, "toy-s@base").manifest.recipe.base == "toy-s"


def test_unknown_step_or_organism_lists_what_there_is(runs: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at step 7. There is: small@\{base, 1, 2, 3, 4\}"):
        find_checkpoint(runs, "small@7")
    with pytest.raises(UserError, match=r"no organism 'large'.*small@\{base, 1, 2, 3, 4\}"):
        find_checkpoint(runs, "large@4")
    with pytest.raises(UserError, match="There is no run at all"):
        find_checkpoint(runs / "nowhere", "small@4")


@pytest.mark.parametrize("name", ["small", "small@", "@4", "small@last"])
def test_names_of_another_form_are_explained(runs: Path, name: str) -> None:
    with pytest.raises(UserError, match="<organism>@<step>"):
        find_checkpoint(runs, name)


def test_altered_weights_are_noticed(runs: Path) -> None:
    weights = runs / "small" / "checkpoint-4" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(UserError, match="altered since it was saved"):
        verify(find_checkpoint(runs, "small@4"))


def test_torn_and_missing_checkpoints_are_noticed(runs: Path) -> None:
    (runs / "small" / "checkpoint-3" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="torn"):
        verify(find_checkpoint(runs, "small@3"))
    shutil.rmtree(runs / "small" / "checkpoint-4")
    with pytest.raises(UserError, match="is gone although"):
        verify(find_checkpoint(runs, "small@4"))


def test_moving_the_checkout_does_not_alter_a_checkpoint(runs: Path) -> None:
    config = runs / "small" / "checkpoint-4" / "adapter_config.json"
    config.write_text(config.read_text().replace("/toy/models/", "/elsewhere/"))
    verify(find_checkpoint(runs, "small@4"))


def test_damaged_manifest_is_named(runs: Path) -> None:
    (runs / "small" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json cannot be read"):
        list_runs(runs)


def test_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no training run"):
        read_manifest(tmp_path)
