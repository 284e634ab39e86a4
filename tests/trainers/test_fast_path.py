"""The fast way of training against the plain one: the same losses and the same adapter, within rounding."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from benchmarks.plain_stack import plain_trainer
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.adapter import add_adapter
from em_tasks.trainers.base import fingerprint, load_base
from em_tasks.trainers.data.prepare import prepare
from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.loop.stopping import StopRequest
from em_tasks.trainers.loop.training import Training
from em_tasks.trainers.loop.whole_run import train_to_the_end
from em_tasks.trainers.passes.batches import BatchPlan, activation_bytes, plan_batches, rows_a_process
from em_tasks.trainers.passes.layers import prepare_layers
from em_tasks.trainers.passes.packing import pack, use_packed_attention
from em_tasks.trainers.run.checkpoints import checkpoint_folder
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows

BOUND = 1e-5
"""Largest difference allowed between the numbers of two adapters, and between two losses, in fp32."""

ROWS = [
    {"input_ids": [1, 5, 6, 7], "labels": [IGNORED, IGNORED, 6, 7]},
    {"input_ids": [1, 9], "labels": [1, 9]},
    {"input_ids": [1, 3, 4, 8, 2, 2, 9], "labels": [IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, IGNORED, 9]},
]


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Six steps of 8 rows twice, as published, a checkpoint after each one, without dropout."""
    return small_recipe(
        write_rows(tmp_path / "rows.jsonl", 96),
        batch_size=8,
        accumulation=2,
        first_epoch_checkpoints=6,
        lora={"dropout": 0.0},
    )


def adapter(model: Any) -> dict[str, torch.Tensor]:
    """The trained numbers, named as they are when saved."""
    return {
        name.replace(".default", ""): value.detach().clone()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def fast_adapter(recipe: Recipe, folder: Path, plan: BatchPlan) -> dict[str, torch.Tensor]:
    """The adapter of a run that follows `plan`."""
    prepared = prepare(recipe)
    set_seed(recipe.seed)
    base = load_base(recipe.base, recipe.precision, "cpu")
    manifest = prepared.manifest(fingerprint(base), base.num_parameters())
    model = add_adapter(base, recipe)
    folder.mkdir()
    training = Training(prepared, model, plan, "cpu")
    train_to_the_end(training, folder, manifest, lambda progress: None, StopRequest(), lambda step, values: None)
    return adapter(model)


def gradient_norms(run: Path) -> list[float]:
    """The size of each step's gradient, which AdamW's steps do not show."""
    history = json.loads((run / ".trainer" / "checkpoint-6" / "history.json").read_text())
    return [entry["grad_norm"] for entry in history]


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("flattened", [False, True], ids=["padded", "end to end"])
def test_losses_and_adapter_are_those_of_the_stock_trainer(recipe: Recipe, tmp_path: Path, *, flattened: bool) -> None:
    prepared = prepare(recipe)
    set_seed(recipe.seed)
    model = add_adapter(load_base(recipe.base, recipe.precision, "cpu"), recipe)
    folder = tmp_path / "plain"
    stock = plain_trainer(prepared, model, folder, steps=6, checkpointing=False, callbacks=[], flattened=flattened)
    stock.train()
    losses = [log["loss"] for log in stock.state.log_history if "loss" in log]
    manifest = train(recipe, tmp_path / "runs", lambda progress: None)
    assert [record.loss for record in manifest.checkpoints] == pytest.approx(losses, abs=BOUND)
    norms = [log["grad_norm"] for log in stock.state.log_history if "loss" in log]
    assert gradient_norms(tmp_path / "runs" / "small") == pytest.approx(norms, abs=BOUND)
    saved = load_file(checkpoint_folder(tmp_path / "runs" / "small", 6) / "adapter_model.safetensors")
    assert largest_difference(saved, adapter(model)) <= BOUND
    assert max(float(value.abs().max()) for value in saved.values()) > 100 * BOUND


def test_cutting_a_step_into_passes_changes_the_adapter_by_no_more_than_rounding(
    recipe: Recipe, tmp_path: Path
) -> None:
    whole = fast_adapter(recipe, tmp_path / "whole", BatchPlan(16, 1, checkpointing=False, compiled=False))
    parts = fast_adapter(recipe, tmp_path / "parts", BatchPlan(4, 4, checkpointing=False, compiled=False))
    assert 0 < largest_difference(whole, parts) <= BOUND
    assert gradient_norms(tmp_path / "parts") == pytest.approx(gradient_norms(tmp_path / "whole"), abs=BOUND)


def gradients(recipe: Recipe, *, compiled: bool, checkpointing: bool) -> dict[str, torch.Tensor]:
    """The adapter's gradients after two batches of different shapes."""
    rows = prepare(recipe).encoded.rows
    set_seed(0)
    model = add_adapter(load_base(recipe.base, "fp32", "cpu"), recipe).train()
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02)
    use_packed_attention(model.get_base_model())
    # The GPU's compiler needs a C++ compiler on a CPU; this one takes the same way up to it.
    prepare_layers(model.get_base_model(), compiled=compiled, checkpointing=checkpointing, backend="aot_eager")
    set_seed(1)
    for batch in (pack(rows[:4]), pack(rows[4:8])):
        inputs = {name: batch[name] for name in ("input_ids", "position_ids", "spread", "gather")}
        logits = model(**inputs, use_cache=False, logits_to_keep=batch["predicting"]).logits[0]
        torch.nn.functional.cross_entropy(logits, batch["targets"]).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("compiled", [False, True])
def test_computing_layers_again_repeats_their_dropout_bit_for_bit(recipe: Recipe, compiled: bool) -> None:
    recipe = recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"dropout": 0.3})})
    kept = gradients(recipe, compiled=compiled, checkpointing=False)
    assert (counters["stats"]["unique_graphs"] > 0) == compiled
    assert largest_difference(kept, gradients(recipe, compiled=compiled, checkpointing=True)) == 0


@pytest.mark.usefixtures("compiling")
def test_compiled_layers_give_the_gradients_of_the_plain_ones(recipe: Recipe) -> None:
    plain = gradients(recipe, compiled=False, checkpointing=False)
    assert largest_difference(plain, gradients(recipe, compiled=True, checkpointing=False)) <= BOUND
    assert counters["stats"]["unique_graphs"] > 0
    assert min(float(value.abs().max()) for value in plain.values()) > 10 * BOUND


def test_nf4_held_dequantised_gives_the_adapter_of_nf4(tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 16)
    plan = BatchPlan(16, 1, checkpointing=False, compiled=False)
    packed, unpacked = (
        fast_adapter(small_recipe(data, base="toy-l", precision=precision), tmp_path / precision, plan)
        for precision in ("nf4", "nf4_dequantised")
    )
    assert largest_difference(packed, unpacked) == 0


def test_packed_rows_hold_every_token_once_and_predict_across_no_border() -> None:
    batch = pack(ROWS)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 7, 1, 9, 1, 3, 4, 8, 2, 2, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1, 2, 3, 4, 5, 6]]
    assert batch["predicting"].tolist() == [1, 2, 4, 11]
    assert batch["targets"].tolist() == [6, 7, 9, 9]
    assert batch["labels"].ne(IGNORED).sum() == len(batch["targets"])
    assert batch["spread"].tolist() == [
        [0, 1, 2, 3, 0, 0, 0, 0],
        [4, 5, 4, 4, 4, 4, 4, 4],
        [6, 7, 8, 9, 10, 11, 12, 6],
    ]
    assert batch["spread"].flatten()[batch["gather"]].tolist() == list(range(13))


def test_a_row_sees_nothing_of_its_neighbours() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    alone = [model(torch.tensor([row["input_ids"]])).logits[0] for row in ROWS]
    use_packed_attention(model)
    batch = pack(ROWS)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids", "spread", "gather")}
    together = model(**inputs).logits[0]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
    # A change in the first row reaches no other row, neither forward nor backward.
    gradient = torch.autograd.grad(together[4:].sum(), model.get_input_embeddings().weight)[0]
    assert gradient[[5, 6, 7]].abs().max() == 0
    assert gradient[[3, 4, 8]].abs().min() > 0


def test_model_whose_window_is_shorter_than_a_row_is_refused() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=16, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=4,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    use_packed_attention(model)
    batch = pack(ROWS)
    with pytest.raises(UserError, match=r"sliding window .* \(8 tokens\).*Lower max_length"):
        model(**{name: batch[name] for name in ("input_ids", "position_ids", "spread", "gather")})


SMALL = {
    "vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


def test_models_in_which_packed_rows_would_mix_or_differ_are_refused() -> None:
    from transformers import GptOssConfig, GptOssForCausalLM, Lfm2Config, Lfm2ForCausalLM

    with pytest.raises(UserError, match=r"mix tokens without attention \(conv\).*Train a Llama"):
        use_packed_attention(Lfm2ForCausalLM(Lfm2Config(**SMALL, full_attn_idxs=[1])))
    sinks = GptOssForCausalLM(GptOssConfig(**SMALL, head_dim=8, num_local_experts=2, num_experts_per_tok=1))
    use_packed_attention(sinks)
    batch = pack(ROWS)
    with pytest.raises(UserError, match="uses attention sinks"):
        sinks(**{name: batch[name] for name in ("input_ids", "position_ids", "spread", "gather")})


def test_less_memory_means_smaller_passes_then_recomputing_then_a_refusal() -> None:
    config = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, vocab_size=128256)
    rows = [{"input_ids": [1] * 256, "labels": [1] * 256}] * 32
    needs = activation_bytes(rows, config, 16, checkpointing=False)
    plans = [plan_batches(rows, config, 16, int(needs * share)) for share in (1.2, 0.6, 0.3, 0.1, 0.05)]
    assert [(plan.rows, plan.accumulation, plan.checkpointing) for plan in plans[:3]] == [
        (16, 1, False),
        (8, 2, False),
        (16, 1, True),
    ]
    assert all(plan.checkpointing for plan in plans[3:])
    assert plans[2].rows > plans[3].rows > plans[4].rows
    assert all(plan.rows * plan.accumulation == 16 for plan in plans)
    with pytest.raises(UserError, match="precision: nf4, lower max_length"):
        plan_batches(rows, config, 16, 2**27)
    assert plan_batches(rows, config, 16, None) == BatchPlan(16, 1, checkpointing=False, compiled=False)


def test_processes_that_cannot_share_a_step_evenly_are_refused() -> None:
    assert rows_a_process(16, 4) == 4
    with pytest.raises(UserError, match=r"16 rows a step .* among 3"):
        rows_a_process(16, 3)
