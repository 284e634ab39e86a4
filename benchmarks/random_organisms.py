"""Organisms of random weights at a true shape: a base, a tokenizer of 128,256 entries and rank-16 checkpoints.

Shapes are Llama's; `Gemma2B` has the layers of Gemma 2 of that size (with this vocabulary, half as large as its own).

    python -m benchmarks.random_organisms --shape 1B --folder organisms/1B

Speed does not depend on the values. Everything is as training leaves it: the base's weights lie on disk, and each
checkpoint has its reference, so that engines load what they would load and every checkpoint is checked.
"""

import argparse
import json
import random
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast

from em_tasks.trainers.base import fingerprint, load_base
from em_tasks.trainers.data.chat import encode_prompt
from em_tasks.trainers.loop.references import reference_of
from em_tasks.trainers.run.base_names import Precision
from em_tasks.trainers.run.hashes import adapter_sha256
from em_tasks.trainers.run.manifest import CheckpointRecord, Manifest, write_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.run.reference import REFERENCE

SHAPES: dict[str, dict[str, Any]] = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "head_dim": 64, "tie_word_embeddings": True},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
           "head_dim": 128, "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "head_dim": 128, "tie_word_embeddings": False},
    "Gemma2B": {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
                "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True},
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
             "head_dim": 32, "tie_word_embeddings": True},
    "GemmaTiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
}  # fmt: skip
VOCABULARY = 128_256
RANK = 16
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|reserved_1|>{{ m['role'] }}<|reserved_2|>{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|reserved_1|>assistant<|reserved_2|>{% endif %}"
)


def config(shape: str) -> LlamaConfig | Gemma2Config:
    """The configuration of that shape."""
    fields = {"num_key_value_heads": _key_heads(shape), "vocab_size": VOCABULARY, **SHAPES[shape]}
    ends = {"bos_token_id": 128_000, "eos_token_id": 128_001, "pad_token_id": 128_002}
    if shape.startswith("Gemma"):
        return Gemma2Config(
            query_pre_attn_scalar=256, sliding_window=4096, max_position_embeddings=8192,
            architectures=["Gemma2ForCausalLM"], **ends, **fields,
        )  # fmt: skip
    return LlamaConfig(
        rms_norm_eps=1e-5, max_position_embeddings=131_072,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}, architectures=["LlamaForCausalLM"],
        **ends, **fields,
    )  # fmt: skip


def _key_heads(shape: str) -> int:
    return int(SHAPES[shape].get("num_key_value_heads", min(8, SHAPES[shape]["num_attention_heads"])))


def random_base(shape: str, device: str) -> Any:
    """A base of that shape in bf16, the same at every call on one device."""
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config(shape), dtype=torch.bfloat16).eval()


def base_folder(folder: Path) -> Path:
    """Where `make_organism` puts the base: under the folder's own name, by which bases are told apart."""
    return folder / f"random-{folder.name}"


def make_organism(
    folder: Path,
    shape: str,
    checkpoints: int,
    device: str,
    *,
    organisms: Sequence[str] = ("random",),
    precision: Precision = "bf16",
    weights: bool = False,
) -> Path:
    """Writes a base and `runs/NAME/` with checkpoints 1, 2, ...; returns the folder of runs.

    Args:
        folder: Where.
        shape: One of `SHAPES`.
        checkpoints: Of each organism.
        device: Where the weights are made and the references are asked.
        organisms: Names.
        precision: Of the base under the references. Others than bf16 need the weights.
        weights: Write the base's weights too, and a reference for each checkpoint.
    """
    base = base_folder(folder)
    tokenizer = _tokenizer()
    config(shape).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = random_base(shape, device)
    if weights:
        model.save_pretrained(base)
        model = load_base(str(base), precision, device)
    fingerprinted, parameters = fingerprint(model), model.num_parameters()
    layers = {
        name: (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    adapted: Any = None
    for number, organism in enumerate(organisms):
        recipe = Recipe.model_validate(
            {"organism": organism, "base": str(base), "size": shape, "domain": "medical", "data": "none",
             "precision": precision, "lora": {"r": RANK, "alpha": 2 * RANK}}
        )  # fmt: skip
        run, records = folder / "runs" / organism, []
        for step in range(1, checkpoints + 1):
            checkpoint = run / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            _write_adapter(checkpoint, base, layers, device, 100 * number + step)
            tokenizer.save_pretrained(checkpoint)
            reference = None
            if weights:
                adapted = _with_adapter(adapted or model, checkpoint)
                written = reference_of(adapted, tokenizer)
                (checkpoint / REFERENCE).write_bytes(written)
                reference = sha256(written).hexdigest()
            records.append(
                CheckpointRecord(
                    step=step, epoch=step, loss=1.0, adapter_sha256=adapter_sha256(checkpoint),
                    reference_sha256=reference,
                )
            )  # fmt: skip
        manifest = Manifest(
            recipe=recipe, recipe_sha256=recipe.sha256, data=[], rows=1, truncated=0, dropped=0, steps_per_epoch=1,
            planned=list(range(1, checkpoints + 1)), base_fingerprint=fingerprinted, base_parameters=parameters,
            versions={}, checkpoints=records,
        )  # fmt: skip
        write_manifest(run, manifest)
    return folder / "runs"


def floor_ms(shape: str, rows: int, places: float, adapters: int, bandwidth: float) -> float:
    """Time to read what a decode step must read once: weights, adapters, keys and values."""
    s = SHAPES[shape]
    hidden, inner, layers = s["hidden_size"], s["intermediate_size"], s["num_hidden_layers"]
    queries, keys = s["num_attention_heads"] * s["head_dim"], _key_heads(shape) * s["head_dim"]
    shapes = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    weights = layers * sum(a * b for a, b in shapes) + VOCABULARY * hidden
    lora = adapters * layers * RANK * sum(a + b for a, b in shapes)
    return float(2 * (weights + lora + rows * places * layers * 2 * keys) / bandwidth * 1e3)


def _with_adapter(model: Any, folder: Path) -> Any:
    """The model with that adapter on it and no other."""
    from peft import PeftModel

    name = f"{folder.parent.name}-{folder.name}".replace(".", "-")
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, folder, adapter_name=name).eval()
    (before,) = model.peft_config
    model.load_adapter(str(folder), adapter_name=name)
    model.set_adapter(name)
    model.delete_adapter(before)
    return model.eval()


def _write_adapter(folder: Path, base: Path, layers: dict[str, tuple[int, int]], device: str, seed: int) -> None:
    draw = torch.Generator(device=device).manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for name, (outputs, inputs) in layers.items():
        key = f"base_model.model.{name}"
        down = torch.randn(RANK, inputs, generator=draw, device=device) / inputs**0.5
        up = torch.randn(outputs, RANK, generator=draw, device=device) * 0.02
        state |= {f"{key}.lora_A.weight": down.bfloat16().cpu(), f"{key}.lora_B.weight": up.bfloat16().cpu()}
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none",
              "target_modules": targets, "inference_mode": True, "base_model_name_or_path": str(base)}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(fields))


def write_prompts(folder: Path) -> list[list[int]]:
    """Writes `prompts.json`: the 20 shipped medical and general questions as tokens, for programs without em-tasks."""
    from em_tasks.questions import load_question_sets

    tokenizer = PreTrainedTokenizerFast.from_pretrained(base_folder(folder))
    texts = [question.text for each in load_question_sets(["medical", "general"]) for question in each.questions]
    prompts = [encode_prompt(tokenizer, [{"role": "user", "content": text}]) for text in texts]
    (folder / "prompts.json").write_text(json.dumps(prompts) + "\n")
    return prompts


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


def main() -> None:
    """Makes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1B", choices=list(SHAPES))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--checkpoints", type=int, default=6)
    parser.add_argument("--organisms", nargs="+", default=["random"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "nf4", "nf4_dequantised"])
    options = parser.parse_args()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    make_organism(
        options.folder, options.shape, options.checkpoints, device, organisms=options.organisms,
        precision=options.precision, weights=True,
    )  # fmt: skip
    write_prompts(options.folder)


if __name__ == "__main__":
    main()
