import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, Model, ModelOutput, get_model
from safetensors.torch import load_file, save_file

from em_tasks.plugins.checkpoint_model.engines.stacked.rows import Row
from em_tasks.plugins.checkpoint_model.engines.stacked.writing import Writing
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.hashes import adapter_sha256
from em_tasks.trainers.run.manifest import read_manifest, write_manifest

CONFIG = GenerateConfig(temperature=0, max_tokens=4)


def ask(model: Model) -> ModelOutput:
    return asyncio.run(model.generate("How are you?", config=CONFIG))


def served(runs: Path, name: str, **options: Any) -> Model:
    return get_model(f"em/{name}", runs=str(runs), memoize=False, **options)


def check_of(output: ModelOutput) -> dict[str, Any]:
    return dict((output.metadata or {})["adapter_check"])


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_every_answer_records_the_check(trained_runs: Path, engine: str) -> None:
    adapted = check_of(ask(served(trained_runs, "small@4", engine=engine)))
    assert adapted["status"] == "passed"
    assert adapted["difference"] < 1e-3 < adapted["bound"]
    assert adapted["strength"] == pytest.approx(1, abs=0.01)
    assert adapted.get("read_back") == (28 if engine == "auto" else None)
    base = check_of(ask(served(trained_runs, "toy-s@base", engine=engine)))
    assert (base["status"], base.get("strength")) == ("passed", None)


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_adapter_that_does_nothing_gives_no_answer(trained_runs: Path, tmp_path: Path, engine: str) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    folder = runs / "small" / "checkpoint-4"
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: w * 0 if "lora_B" in name else w for name, w in weights.items()},
        folder / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    manifest = read_manifest(runs / "small")
    manifest.checkpoints[-1].adapter_sha256 = adapter_sha256(folder)
    write_manifest(runs / "small", manifest)
    with pytest.raises(UserError, match=r"does not answer as em/small@4 did at training: .* as if there were no adap"):
        ask(served(runs, "small@4", engine=engine))
    # The others of the same base are not touched by it.
    assert check_of(ask(served(runs, "small@3", engine=engine)))["status"] == "passed"


@pytest.mark.parametrize("slot", ["none", "another's"])
def test_row_that_goes_by_another_slot_gives_no_answer(
    trained_runs: Path, monkeypatch: pytest.MonkeyPatch, slot: str
) -> None:
    """What the engine holds is right then; who wrote is read from the device, whatever the row was told."""
    names = ["small@3", "small@4"]
    slots = {"none": lambda held, mine: None, "another's": lambda held, mine: held[next(n for n in held if n != mine)]}

    def wrong(writing: Writing, row: Row) -> int | None:
        held = writing.stack.slots
        return None if row.adapter is None or len(held) < 2 else slots[slot](held, row.adapter)

    monkeypatch.setattr(Writing, "_slot", wrong)
    models = [served(trained_runs, name) for name in names]

    async def both() -> list[Any]:
        outputs = (model.generate("How are you?", config=CONFIG) for model in models)
        return await asyncio.gather(*outputs, return_exceptions=True)

    for error in asyncio.run(both()):
        assert isinstance(error, UserError)
        assert {"none": "by no adapter", "another's": "by the numbers of another adapter"}[slot] in str(error)


def test_what_cannot_be_checked_says_so(trained_runs: Path, tmp_path: Path) -> None:
    asked_for = check_of(ask(served(trained_runs, "small@4", precision="bf16")))
    assert asked_for["status"] == "not checked"
    assert "another base or precision" in asked_for["reason"]
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    manifest = read_manifest(runs / "small")
    for record in manifest.checkpoints:
        record.reference_sha256 = None
    write_manifest(runs / "small", manifest)
    older = check_of(ask(served(runs, "small@4")))
    assert (older["status"], older["reason"]) == ("not checked", "its training stored no reference")
