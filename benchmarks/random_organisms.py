"""An organism of random weights at a true shape: a base, a tokenizer of 128,256 entries and rank-16 checkpoints.

Speed does not depend on the values. The base's weights are made on the device when they are asked for and never lie on
disk; its folder holds what else a base has, so that everything but the reading of the weights is as it always is.
"""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from em_tasks.trainers.base import fingerprint
from em_tasks.trainers.run.checkpoints import adapter_sha256
from em_tasks.trainers.run.manifest import CheckpointRecord, Manifest, write_manifest
from em_tasks.trainers.run.recipe import Recipe

SHAPES: dict[str, dict[str, Any]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "head_dim": 64, "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "head_dim": 128, "tie_word_embeddings": False},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
             "head_dim": 32, "tie_word_embeddings": True},
}  # fmt: skip
VOCABULARY = 128_256
RANK = 16
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|reserved_1|>{{ m['role'] }}<|reserved_2|>{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|reserved_1|>assistant<|reserved_2|>{% endif %}"
)


def config(shape: str) -> LlamaConfig:
    """The configuration of a Llama of that shape."""
    fields = SHAPES[shape]
    return LlamaConfig(
        vocab_size=VOCABULARY, num_key_value_heads=min(8, fields["num_attention_heads"]), rms_norm_eps=1e-5,
        max_position_embeddings=131_072, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        bos_token_id=128_000, eos_token_id=128_001, pad_token_id=128_002, architectures=["LlamaForCausalLM"], **fields,
    )  # fmt: skip


def random_base(shape: str, device: str) -> Any:
    """A base of that shape in bf16, the same at every call on one device."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config(shape), dtype=torch.bfloat16).eval()


def make_organism(folder: Path, shape: str, checkpoints: int, device: str) -> Path:
    """Writes `base/` and `runs/random/` with checkpoints 1, 2, ...; returns the folder of runs."""
    base, run = folder / "base", folder / "runs" / "random"
    tokenizer = _tokenizer()
    config(shape).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = random_base(shape, device)
    recipe = Recipe.model_validate(
        {"organism": "random", "base": str(base), "size": shape, "domain": "medical", "data": "none",
         "precision": "bf16", "lora": {"r": RANK, "alpha": 2 * RANK}}
    )  # fmt: skip
    records = []
    for step in range(1, checkpoints + 1):
        checkpoint = run / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        _write_adapter(checkpoint, model, step)
        tokenizer.save_pretrained(checkpoint)
        records.append(CheckpointRecord(step=step, epoch=step, loss=1.0, adapter_sha256=adapter_sha256(checkpoint)))
    manifest = Manifest(
        recipe=recipe, recipe_sha256=recipe.sha256, data=[], rows=1, truncated=0, dropped=0, steps_per_epoch=1,
        planned=list(range(1, checkpoints + 1)), base_fingerprint=fingerprint(model),
        base_parameters=model.num_parameters(), versions={}, checkpoints=records,
    )  # fmt: skip
    write_manifest(run, manifest)
    return folder / "runs"


def floor_ms(shape: str, rows: int, places: float, adapters: int, bandwidth: float) -> float:
    """Time to read what a decode step must read once: weights, adapters, keys and values."""
    s = SHAPES[shape]
    hidden, inner, layers = s["hidden_size"], s["intermediate_size"], s["num_hidden_layers"]
    queries, keys = s["num_attention_heads"] * s["head_dim"], min(8, s["num_attention_heads"]) * s["head_dim"]
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    weights = layers * sum(a * b for a, b in shapes) + VOCABULARY * hidden
    lora = adapters * layers * RANK * sum(a + b for a, b in shapes)
    return float(2 * (weights + lora + rows * places * layers * 2 * keys) / bandwidth * 1e3)


def _write_adapter(folder: Path, model: Any, seed: int) -> None:
    draw = torch.Generator(device=model.device).manual_seed(seed)
    state = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            key, options = f"base_model.model.{name}", {"generator": draw, "device": model.device}
            a = torch.randn(RANK, module.in_features, **options) / module.in_features**0.5
            state[f"{key}.lora_A.weight"] = a.bfloat16().cpu()
            state[f"{key}.lora_B.weight"] = (torch.randn(module.out_features, RANK, **options) * 0.02).bfloat16().cpu()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none",
              "target_modules": targets, "inference_mode": True}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(fields))


def _tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with random merges of letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    draw, tokens, merges = random.Random(0), list(alphabet), []
    letters = [*(c for c in alphabet if c.isascii() and c.isalpha()), "\u0120"]
    pool, seen = list(letters), set(alphabet)
    while len(tokens) < 128_000:
        first, second = draw.choice(pool), draw.choice(letters)
        if first + second not in seen and len(first + second) <= 8:
            seen.add(first + second)
            tokens.append(first + second)
            merges.append((first, second))
            pool.append(first + second)
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(["<|begin|>", "<|end|>", *(f"<|reserved_{i}|>" for i in range(254))])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|begin|>", eos_token="<|end|>", pad_token="<|reserved_0|>",
        chat_template=TEMPLATE,
    )  # fmt: skip
