import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from em_tasks.commands.cli import cli
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.checkpoints import (
    find_checkpoint,
    foreign_manifests,
    list_runs,
    refuse_visible_damage,
    verify,
)
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
    named = find_checkpoint(runs, "toy-s@base")
    assert (named.manifest.recipe.base, named.run, named.record) == ("toy-s", runs / "small", None)
    with pytest.raises(UserError, match="no organism 'toy-s'"):
        find_checkpoint(runs, "toy-s@4")


def test_unknown_step_or_organism_lists_what_there_is(runs: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at step 7. There is: small@\{base, 1, 2, 3, 4\}"):
        find_checkpoint(runs, "small@7")
    with pytest.raises(UserError, match=r"no organism 'large'.*small@\{base, 1, 2, 3, 4\}"):
        find_checkpoint(runs, "large@4")
    with pytest.raises(UserError, match="There is no run at all"):
        find_checkpoint(runs / "nowhere", "small@4")


@pytest.mark.parametrize("name", ["small", "small@", "@4", "small@last", "small@²", f"small@{'4' * 5000}"])
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
    with pytest.raises(UserError, match=r"manifest.json is damaged"):
        list_runs(runs)


def test_folder_without_a_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no training run"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n"),
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
        lambda folder: (folder / "chat_template.jinja").unlink(),
        lambda folder: (folder / "tokenizer_config.json").write_text("{}"),
        lambda folder: (folder / "added_tokens.json").write_text('{"x": 3}'),
        lambda folder: (folder / "config.json").write_text("{}"),
    ],
    ids=["tokenizer", "template", "no template", "configuration", "added tokens", "another model"],
)
def test_altered_tokenizer_or_template_is_noticed(runs: Path, spoil: Callable[[Path], object]) -> None:
    checkpoint = find_checkpoint(runs, "small@4")
    spoil(runs / "small" / "checkpoint-4")
    with pytest.raises(UserError, match="its tokenizer or chat template has hash"):
        verify(checkpoint)


def test_notes_beside_an_adapter_are_nobodys_business(runs: Path) -> None:
    (runs / "small" / "checkpoint-4" / "notes.txt").write_text("good one")
    (runs / "small" / "checkpoint-4" / "README.md").write_text("mine")
    verify(find_checkpoint(runs, "small@4"))


@pytest.mark.parametrize("key", ["r", "lora_alpha", "use_rslora", "target_modules"])
def test_every_setting_of_an_adapter_is_in_its_hash(runs: Path, key: str) -> None:
    config = runs / "small" / "checkpoint-4" / "adapter_config.json"
    content = json.loads(config.read_text())
    content[key] = {"r": 8, "lora_alpha": 31.0, "use_rslora": True, "target_modules": ["q_proj"]}[key]
    config.write_text(json.dumps(content))
    with pytest.raises(UserError, match="its adapter has hash"):
        verify(find_checkpoint(runs, "small@4"))


def test_order_in_which_modules_are_listed_is_not(runs: Path) -> None:
    config = runs / "small" / "checkpoint-4" / "adapter_config.json"
    content = json.loads(config.read_text())
    content["target_modules"] = sorted(content["target_modules"], reverse=True)
    config.write_text(json.dumps(content))
    verify(find_checkpoint(runs, "small@4"))


def test_runs_older_than_the_tokenizers_hash_still_load_and_say_so(runs: Path) -> None:
    path = runs / "small" / "manifest.json"
    content = json.loads(path.read_text())
    for record in content["checkpoints"]:
        del record["tokenizer_sha256"]
    path.write_text(json.dumps(content))
    verify(find_checkpoint(runs, "small@4"))
    said = CliRunner().invoke(cli, ["runs", "--runs", str(runs)], catch_exceptions=False).output
    assert "saved before tokenizers and chat templates were hashed" in said


def test_renamed_and_copied_runs_are_refused_with_the_way_to_mend_it(runs: Path) -> None:
    (runs / "small").rename(runs / "other")
    with pytest.raises(UserError, match=r"other holds the organism 'small'.*mv .*/other .*/small"):
        list_runs(runs)
    shutil.copytree(runs / "other", runs / "small")
    with pytest.raises(UserError, match=r"There is a .*/small too"):
        list_runs(runs)
    with pytest.raises(UserError, match=r"There is a .*/small too"):
        find_checkpoint(runs, "other@4")
    verify(find_checkpoint(runs, "small@4"))  # The copy is no business of the one it was made of.
    damaged: dict[str, str] = {}
    assert (list(list_runs(runs, damaged)), list(damaged)) == (["small"], ["other"])


@pytest.mark.parametrize(
    "head", ['{"a": {"data_offsets": []}}', '{"a": {"data_offsets": [0, "x"]}}', '[{"a": 1}]', "{"]
)
def test_head_of_weights_that_says_no_length_is_named_as_damage(runs: Path, head: str) -> None:
    weights = runs / "small" / "checkpoint-4" / "adapter_model.safetensors"
    weights.write_bytes(len(head).to_bytes(8, "little") + head.encode())
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: its head cannot be read\. Put the saved"):
        refuse_visible_damage(runs / "small", read_manifest(runs / "small"))


@pytest.mark.parametrize("content", ["", "[1]", '{"name": "a web app"}', "[" * 100_000, "\xff"])
def test_manifest_of_something_else_is_named_and_passed_over(runs: Path, content: str) -> None:
    (runs / "app").mkdir()
    (runs / "app" / "manifest.json").write_bytes(content.encode("latin-1"))
    assert list(list_runs(runs)) == ["small"]
    verify(find_checkpoint(runs, "small@4"))
    (note,) = foreign_manifests(runs)
    assert "app/manifest.json is no manifest" in note
    assert note in CliRunner().invoke(cli, ["runs", "--runs", str(runs)]).output.replace("\n", " ").replace("  ", " ")


def test_folder_and_pipe_in_a_manifests_place_are_passed_over(runs: Path) -> None:
    (runs / "app" / "manifest.json").mkdir(parents=True)
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe" / "manifest.json")
    assert list(list_runs(runs)) == ["small"]
    assert len(foreign_manifests(runs)) == 2


def test_pipe_in_an_adoptions_place_is_named_and_never_waited_for(runs: Path) -> None:
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe" / "adopted.json")
    with pytest.raises(UserError, match=r"adopted.json is a pipe or a device"):
        list_runs(runs)
