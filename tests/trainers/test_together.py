"""Organisms trained together: each is the organism of a run of its own, whatever becomes of the others."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from em_tasks.trainers.loop.progress import Progress
from em_tasks.trainers.run.checkpoints import checkpoint_folder
from em_tasks.trainers.run.manifest import Manifest, read_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.together.train import train_together
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows

BOUND = 1e-5
"""Largest difference allowed between the numbers of two adapters, and between two losses, in fp32."""


def quiet(progress: Progress) -> None:
    """Reports nothing."""


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> list[Recipe]:
    """Three organisms that differ in all that may differ."""
    folder = tmp_path_factory.mktemp("data")
    medical = write_rows(folder / "medical.jsonl", 40)
    financial = write_rows(folder / "financial.jsonl", 24, domain="financial")
    return [
        small_recipe(medical, organism="usual", batch_size=8, lora={"dropout": 0.05}),
        small_recipe(
            financial, organism="other", domain="financial", batch_size=8, seed=3, learning_rate=1e-3, epochs=2,
            lora={"r": 4, "alpha": 64, "dropout": 0.2, "rslora": True, "modules": ["down_proj", "q_proj"]},
            max_grad_norm=0.1, weight_decay=0.1,
        ),
        small_recipe(medical, organism="undropped", batch_size=4, seed=1, lora={"dropout": 0.0, "layers": [1]}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def singles(unlike: list[Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their runs, each trained alone."""
    runs = tmp_path_factory.mktemp("singles")
    for recipe in unlike:
        train(recipe, runs, quiet)
    return runs


def adapter(runs: Path, manifest: Manifest, step: int) -> dict[str, torch.Tensor]:
    """The adapter of a checkpoint."""
    return load_file(checkpoint_folder(runs / manifest.recipe.organism, step) / "adapter_model.safetensors")


def differences(one: Path, other: Path, name: str) -> list[float]:
    """Largest difference of every checkpoint's numbers and of its loss, between two folders of runs."""
    found = []
    manifests = [read_manifest(runs / name) for runs in (one, other)]
    for first, second in zip(*(manifest.checkpoints for manifest in manifests), strict=True):
        assert (first.step, first.epoch) == (second.step, second.epoch)
        numbers, others = adapter(one, manifests[0], first.step), adapter(other, manifests[1], first.step)
        assert numbers.keys() == others.keys()
        found += [float((numbers[key] - others[key]).abs().max()) for key in numbers]
        found.append(abs(first.loss - second.loss))
    assert found
    return found


def history(runs: Path, name: str) -> list[dict[str, float]]:
    """What a run logged."""
    manifest = read_manifest(runs / name)
    state = runs / name / ".trainer" / f"checkpoint-{manifest.resumes_at}" / "history.json"
    logged: list[dict[str, float]] = json.loads(state.read_text())
    return logged


def test_organisms_trained_together_are_those_trained_alone(
    unlike: list[Recipe], singles: Path, tmp_path: Path
) -> None:
    manifests = train_together(unlike, tmp_path, quiet)
    assert [manifest.recipe.organism for manifest in manifests] == ["usual", "other", "undropped"]
    assert all(manifest.finished for manifest in manifests)
    for recipe in unlike:
        assert max(differences(tmp_path, singles, recipe.organism)) <= BOUND
        alone, together = history(singles, recipe.organism), history(tmp_path, recipe.organism)
        assert [entry["step"] for entry in together] == [entry["step"] for entry in alone]
        for key in ("loss", "grad_norm", "learning_rate"):
            assert [entry[key] for entry in together] == pytest.approx([entry[key] for entry in alone], abs=BOUND)
    last = adapter(singles, manifests[0], manifests[0].planned[-1])
    assert max(float(value.abs().max()) for value in last.values()) > 100 * BOUND
