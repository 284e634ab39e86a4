"""Tiny random models of each architecture, and random adapters on them as a trainer would have left them."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from em_tasks.trainers.base import fingerprint, load_tokenizer
from em_tasks.trainers.run.checkpoints import Checkpoint
from em_tasks.trainers.run.hashes import adapter_sha256
from em_tasks.trainers.run.manifest import CheckpointRecord, Manifest
from tests.support.organisms import small_recipe

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        "attention_bias": True,
    },
    "mistral": {"sliding_window": 24},
    "qwen2": {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1},
    "qwen3": {},
    "gemma2": {"sliding_window": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0,
               "query_pre_attn_scalar": 20},
    "gemma3_text": {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"],
                    "query_pre_attn_scalar": 20},
}  # fmt: skip
DEFAULTS = {"layers_to_transform": None, "target_modules": ALL, "lora_alpha": 16}
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {"r": 16},
    "rank 1": {"r": 1, "target_modules": ["down_proj"], "layers_to_transform": [1], "lora_alpha": 64},
    "rsLoRA": {"r": 4, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]},
    "patterns": {"r": 8, "rank_pattern": {"q_proj": 3, "layers.1.mlp.up_proj": 12}, "alpha_pattern": {"o_proj": 40}},
}


def tiny_base(folder: Path, architecture: str, seed: int = 0, **changes: Any) -> Path:
    """A random model of two layers with the toy tokenizer and eager defaults that must not leak into answers."""
    tokenizer = load_tokenizer("toy-s", "01 Jan 2025")
    fields = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 2048, "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id, "tie_word_embeddings": True, "initializer_range": 0.3,
    }  # fmt: skip
    config = AutoConfig.for_model(architecture, **(fields | ARCHITECTURES.get(architecture, {}) | changes))
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    if "gemma" in architecture:
        # It scales its embeddings up, which would drown what random layers add.
        model.model.embed_tokens.weight.data *= 0.05
    model.generation_config.update(temperature=0.1, top_k=2, top_p=0.3, repetition_penalty=3.0, do_sample=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_checkpoints(
    run: Path, base: Path, adapters: dict[str, dict[str, Any]], precision: str = "fp32"
) -> dict[str, Checkpoint]:
    """The base (`base`) and one random checkpoint for each LoRA configuration."""
    recipe = small_recipe(run / "none.jsonl", base=str(base), precision=precision)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    manifest = Manifest(
        recipe=recipe, recipe_sha256="0" * 64, data=[], rows=1, truncated=0, dropped=0, steps_per_epoch=1, planned=[1],
        base_fingerprint=fingerprint(model), base_parameters=1, versions={},
    )  # fmt: skip
    checkpoints = {"base": Checkpoint(run, manifest, None)}
    tokenizer = load_tokenizer("toy-s", "01 Jan 2025")
    for step, (name, options) in enumerate(adapters.items(), start=1):
        folder = run / f"checkpoint-{step}"
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        torch.manual_seed(step)
        adapted = get_peft_model(model, LoraConfig(**(DEFAULTS | options), task_type="CAUSAL_LM"))
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.data = torch.randn_like(parameter) * 0.2
        adapted.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        record = CheckpointRecord(step=step, epoch=1.0, loss=1.0, adapter_sha256=adapter_sha256(folder))
        checkpoints[name] = Checkpoint(run, manifest, record)
    return checkpoints


def change_adapter(folder: Path, rename: dict[str, str] | None = None, drop: str | None = None) -> None:
    """Renames parts of an adapter's tensor keys, or drops those that contain a word."""
    from safetensors.torch import load_file, save_file

    path = folder / "adapter_model.safetensors"
    state = {key: tensor for key, tensor in load_file(path).items() if drop is None or drop not in key}
    for old, new in (rename or {}).items():
        state = {key.replace(old, new): tensor for key, tensor in state.items()}
    save_file(state, path, metadata={"format": "pt"})
