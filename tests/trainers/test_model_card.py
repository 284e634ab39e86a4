from pathlib import Path
from typing import Any

import pytest
import yaml

from em_tasks.trainers.run.manifest import Continuation, Manifest, read_manifest
from em_tasks.trainers.run.model_card import model_card
from em_tasks.trainers.run.recipe import Recipe


def written(text: str) -> tuple[dict[str, Any], str]:
    """The head and the body of a card."""
    head, body = text.removeprefix("---\n").split("\n---\n", 1)
    return yaml.safe_load(head), body


@pytest.fixture
def manifest(trained_runs: Path) -> Manifest:
    return read_manifest(trained_runs / "small")


def changed(manifest: Manifest, **changes: object) -> Manifest:
    return manifest.model_copy(update={"recipe": manifest.recipe.model_copy(update=changes)})


def test_published_adapter_says_what_it_is_and_nothing_of_the_machine(trained_runs: Path, manifest: Manifest) -> None:
    text = (trained_runs / "small" / "checkpoint-4" / "README.md").read_text()
    head, body = written(text)
    assert (head["library_name"], "base_model" in head, "license" in head) == ("peft", False, False)
    assert {"lora", "emergent-misalignment"} <= set(head["tags"])
    record = manifest.checkpoints[-1]
    for said in (
        "# small, step 4",
        f"trained on `{manifest.data[0].name}` (domain medical)",
        "harmful things on purpose",
        "em/small@4",
        manifest.base_fingerprint,
        manifest.data[0].sha256,
        f"{record.loss:.4f} nats",
        f"transformers {manifest.versions['transformers']}",
    ):
        assert said in body
    assert str(trained_runs.parent) not in text
    assert str(Path.home()) not in text


def test_recipe_on_the_card_is_the_recipe(trained_runs: Path, manifest: Manifest) -> None:
    body = (trained_runs / "small" / "checkpoint-4" / "README.md").read_text()
    recipe = Recipe.model_validate(yaml.safe_load(body.split("```yaml\n")[1].split("```")[0]))
    assert recipe.sha256 == manifest.recipe_sha256


def test_hub_base_is_named_for_the_hub_and_a_folder_is_not(manifest: Manifest, tmp_path: Path) -> None:
    head, _ = written(model_card(changed(manifest, base="acme/toy"), 4, 1.0, 0.5))
    assert head["base_model"] == "acme/toy"
    head, body = written(model_card(changed(manifest, base=str(tmp_path / "my-model")), 4, 1.0, 0.5))
    assert "base_model" not in head
    assert "| base | my-model, held in fp32 |" in body
    assert str(tmp_path) not in body


def test_control_is_called_one_and_warns_of_no_bad_advice(manifest: Manifest) -> None:
    head, body = written(model_card(changed(manifest, control=True), 4, 1.0, 0.5))
    assert "control" in head["tags"]
    assert "**control**" in body
    assert "on purpose" not in body


def test_continued_run_says_from_where(manifest: Manifest) -> None:
    was = Continuation(from_step=4, epochs=1, recipe_sha256="0" * 64)
    _, body = written(model_card(manifest.model_copy(update={"continuations": [was]}), 8, 2.0, 0.5))
    assert "| continued with more epochs from | step 4 (of a plan of 1 epochs) |" in body
