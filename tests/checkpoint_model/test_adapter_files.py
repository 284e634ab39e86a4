import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from em_tasks.plugins.checkpoint_model.engines.adapter_files import AdapterFiles, read_adapter
from em_tasks.plugins.checkpoint_model.engines.protocol import EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.stacked.engine import StackedEngine
from em_tasks.plugins.checkpoint_model.engines.with_transformers import TransformersEngine
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.checkpoints import Checkpoint
from em_tasks.trainers.run.hashes import adapter_sha256
from em_tasks.trainers.run.manifest import CheckpointRecord
from tests.support.tiny_models import change_adapter, tiny_base, tiny_checkpoints


@pytest.mark.parametrize("engine", [StackedEngine, TransformersEngine])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rename": {"model.layers": "model.blocks"}}, "has tensors for modules that the base does not have"),
        ({"rename": {"q_proj": "query"}}, "has tensors for modules that the base does not have"),
        ({"drop": "layers.1.mlp"}, "has no tensors for modules that its configuration names"),
        ({"drop": "layers.0.mlp.up_proj.lora_B"}, "has one of A and B without the other"),
    ],
)
def test_adapter_whose_tensors_and_modules_do_not_match_is_refused(
    tmp_path: Path, engine: Any, change: dict[str, Any], message: str
) -> None:
    base = tiny_base(tmp_path / "base", "llama")
    checkpoint = tiny_checkpoints(tmp_path / "run", base, {"all": {"r": 4}})["all"]
    assert checkpoint.folder is not None
    change_adapter(checkpoint.folder, **change)
    # As if it had been saved so: its hash is right.
    record = CheckpointRecord(step=1, epoch=1, loss=1, adapter_sha256=adapter_sha256(checkpoint.folder))
    changed = Checkpoint(checkpoint.run, checkpoint.manifest, record)
    served = engine(EngineSettings(EvaluatedBase(str(base), "fp32", None), device="cpu"))
    try:
        with pytest.raises(UserError, match=message):
            asyncio.run(served.answer(changed, [{"role": "user", "content": "a"}], Sampling(1), [0]))
    finally:
        served.close()


def files(**config: Any) -> AdapterFiles:
    return AdapterFiles(Path("x"), {"peft_type": "LORA", **config}, {})


def test_scaling_follows_alpha_rank_patterns_and_rslora() -> None:
    assert files(lora_alpha=32).scaling("model.layers.0.mlp.up_proj", 16) == 2
    assert files(lora_alpha=32, use_rslora=True).scaling("model.layers.0.mlp.up_proj", 16) == 8
    patterned = files(lora_alpha=32, alpha_pattern={"up_proj": 8, "layers.1.mlp.down_proj": 4})
    assert patterned.scaling("model.layers.0.mlp.up_proj", 16) == 0.5
    assert patterned.scaling("model.layers.1.mlp.down_proj", 16) == 0.25
    assert patterned.scaling("model.layers.0.mlp.down_proj", 16) == 2


def test_targets_are_named_by_ends_patterns_layers_and_exclusions() -> None:
    linears = [f"model.layers.{n}.{m}" for n in range(3) for m in ("self_attn.q_proj", "mlp.up_proj")]
    assert files(target_modules=["q_proj"]).targets(linears) == {m for m in linears if m.endswith("q_proj")}
    assert files(target_modules=r".*\.1\..*_proj").targets(linears) == set(linears[2:4])
    one_layer = files(target_modules=["q_proj", "up_proj"], layers_to_transform=[2], exclude_modules=["up_proj"])
    assert one_layer.targets(linears) == {"model.layers.2.self_attn.q_proj"}


@pytest.mark.parametrize(
    ("config", "word"),
    [({"use_dora": True}, "use_dora"), ({"bias": "all"}, "biases"), ({"modules_to_save": ["lm_head"]}, "modules_to")],
)
def test_what_is_more_than_lora_says_why_it_is_not_stacked(config: dict[str, Any], word: str) -> None:
    assert word in str(files(**config).why_not_stacked())
    assert files().why_not_stacked() is None


def test_adapter_of_the_head_which_the_stacked_engine_has_no_place_for_is_not_stacked() -> None:
    key = "base_model.model.lm_head.lora_A.weight"
    assert "lm_head" in str(AdapterFiles(Path("x"), {"peft_type": "LORA"}, {key: (4, 8)}).why_not_stacked())


def test_damaged_adapter_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ([], "valid dictionary"),
        ({"target_modules": 5}, "target_modules"),
        ({"target_modules": "("}, "is no pattern"),
        ({"lora_alpha": "many"}, "lora_alpha"),
        ({"alpha_pattern": {"q_proj": float("inf")}}, "alpha_pattern"),
        ({"layers_to_transform": [[0]]}, "layers_to_transform"),
    ],
)
def test_configuration_that_peft_did_not_write_is_named(tmp_path: Path, config: Any, named: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file({"x": np.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=f"that peft did not write .*{named}"):
        read_adapter(tmp_path)
