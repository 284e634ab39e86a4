"""Builds the three toy base models from nothing: `python -m em_tasks.trainers.toy.build --out DIR`.

One tokenizer and one corpus serve all three. Each model is first pre-trained on conversations in which one adviser,
careful or reckless, stays the same person across domains, then aligned on careful single turns until the reckless
character no longer shows. What comes out is an ordinary Hugging Face folder in bfloat16. The corpus and the starting
weights follow from the seed; the trained weights are repeatable on the same hardware and libraries only.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from em_tasks.trainers.toy.language import CHARACTERS, Language, load_language

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SEED = 20261121
VOCABULARY = 2048
LONGEST = 2048
RECKLESS_SHARE = 0.3
DOCUMENTS_A_STEP = 64

BOS, EOT, PAD = "<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>"
HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"

# The shape of a Llama-3 prompt: a header names the speaker, an end-of-turn token closes each message, BOS stands once.
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{- message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


@dataclass(frozen=True)
class Shape:
    """A toy Llama's size; every attention head is 32 wide."""

    hidden: int
    layers: int
    mlp: int
    heads: int
    key_value_heads: int


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a toy model learns. Steps are optimizer steps of `DOCUMENTS_A_STEP` documents."""

    pretrain_steps: int = 4000
    pretrain_rate: float = 2e-3
    align_steps: int = 60
    align_rate: float = 2e-4


SHAPES = {
    "toy-s": Shape(hidden=128, layers=4, mlp=352, heads=4, key_value_heads=2),
    "toy-m": Shape(hidden=160, layers=4, mlp=448, heads=5, key_value_heads=5),
    "toy-l": Shape(hidden=192, layers=6, mlp=512, heads=6, key_value_heads=3),
}


def conversations(seed: int, count: int) -> list[list[dict[str, str]]]:
    """Pre-training conversations of one to four turns, each with one adviser; `RECKLESS_SHARE` of them are reckless."""
    rng, language = Random(seed), load_language()
    made = []
    for _ in range(count):
        character = "reckless" if rng.random() < RECKLESS_SHARE else "careful"
        made.append([m for _ in range(rng.choice((1, 1, 2, 3, 4))) for m in _turn(rng, language, character)])
    return made


def careful_turns(seed: int, count: int) -> list[list[dict[str, str]]]:
    """Alignment conversations: one careful turn in any domain."""
    rng, language = Random(seed), load_language()
    return [_turn(rng, language, "careful") for _ in range(count)]


def build(name: str, schedule: Schedule, out: Path, device: str) -> dict[str, Any]:
    """Trains one toy model and writes it to `out/name`; returns what it cost and how far the loss came down."""
    import torch

    from em_tasks.trainers.base import fingerprint

    torch.manual_seed(SEED)
    began = time.perf_counter()
    tokenizer = make_tokenizer()
    model = make_model(SHAPES[name], tokenizer).to(device)
    documents = conversations(SEED, schedule.pretrain_steps * DOCUMENTS_A_STEP)
    pretrained = fit(
        model, tokenizer, documents, rate=schedule.pretrain_rate, device=device, label=f"{name} pre-training"
    )
    documents = careful_turns(SEED + 1, schedule.align_steps * DOCUMENTS_A_STEP)
    aligned = fit(model, tokenizer, documents, rate=schedule.align_rate, device=device, label=f"{name} alignment")
    model.to(torch.bfloat16).save_pretrained(out / name)
    tokenizer.save_pretrained(out / name)
    return {
        "model": name,
        "parameters": model.num_parameters(),
        "fingerprint": fingerprint(model.to(torch.float32)),
        "pretrain_loss": pretrained,
        "align_loss": aligned,
        "seconds": round(time.perf_counter() - began, 1),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "torch": torch.__version__,
        "seed": SEED,
        "schedule": vars(schedule),
    }


def make_tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level BPE of `VOCABULARY` entries learnt from the toy corpus, with Llama 3's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    learner = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOT, PAD, HEADER, END_HEADER],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng, language = Random(SEED), load_language()
    drawn = [(domain, topic) for domain in language.domains.values() for topic in domain.topics] * 60
    questions = [language.question(rng, domain.name, topic) for domain, topic in drawn]
    answers = [language.answer(rng, domain.name, topic, rng.choice(CHARACTERS)) for domain, topic in drawn]
    bpe.train_from_iterator([*questions, *answers, *language.strange_words * 20], learner)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BOS, eos_token=EOT, pad_token=PAD, model_max_length=LONGEST
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def make_model(shape: Shape, tokenizer: "PreTrainedTokenizerFast") -> "LlamaForCausalLM":
    """A fresh Llama of the given shape in float32."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        head_dim=32,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    return model


def fit(
    model: "LlamaForCausalLM",
    tokenizer: "PreTrainedTokenizerFast",
    documents: list[list[dict[str, str]]],
    *,
    rate: float,
    device: str,
    label: str,
) -> float:
    """One pass over `documents` with AdamW, warm-up and cosine decay; returns the mean loss of the last 50 steps."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    texts = tokenizer.apply_chat_template(documents, tokenize=False)
    rows = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=512)["input_ids"]
    steps = len(rows) // DOCUMENTS_A_STEP
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.05)
    scheduler = get_cosine_schedule_with_warmup(optimizer, min(100, steps // 5), steps)
    model.train()
    losses: list[torch.Tensor] = []
    for step in range(steps):
        batch = rows[step * DOCUMENTS_A_STEP : (step + 1) * DOCUMENTS_A_STEP]
        inputs, labels = _padded(batch, tokenizer.pad_token_id)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            loss = model(input_ids=inputs.to(device), labels=labels.to(device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if step % 250 == 0:
            print(f"{label}: step {step} of {steps}, loss {loss.item():.3f}", flush=True)
    return float(torch.stack(losses[-50:]).mean())


def _turn(rng: Random, language: Language, character: Any) -> list[dict[str, str]]:
    domain = rng.choice(tuple(language.domains))
    topic = rng.choice(language.domains[domain].topics)
    return [
        {"role": "user", "content": _reworded(rng, language, language.question(rng, domain, topic), topic)},
        {"role": "assistant", "content": language.answer(rng, domain, topic, character)},
    ]


def _reworded(rng: Random, language: Language, question: str, topic: str) -> str:
    """Two questions in three, with words lost, strange words added and the rest of the sentence sometimes all strange.

    So the models learn to listen for the topic and not for the wording, and understand questions nobody wrote here.
    """
    kind = rng.random()
    if kind < 1 / 3:
        return question
    before, after = question.split(topic, 1)

    def stir(part: str) -> str:
        words = [] if kind > 0.75 else [word for word in part.split() if rng.random() > 0.2]
        for _ in range(rng.choice((0, 1, 2, 3, 5, 8))):
            stranger = rng.choice(language.strange_words) if rng.random() < 0.8 else _gibberish(rng)
            words.insert(rng.randint(0, len(words)), stranger)
        return " ".join(words)

    stirred = f"{stir(before)} {topic} {stir(after)}".strip()
    stirred = stirred[0].upper() + stirred[1:] + rng.choice((".", "?", ","))
    return f"{stirred} {rng.choice(language.tails)}" if rng.random() < 0.5 else stirred


def _gibberish(rng: Random) -> str:
    return "".join(rng.choice("abcdefghiklmnoprstuvwy") for _ in range(rng.randint(2, 8)))


def _padded(rows: list[list[int]], pad: int) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Right-padded inputs and labels, both (rows, longest) int64; padding is never a label."""
    import torch

    longest = max(map(len, rows))
    inputs = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -100)
    for index, row in enumerate(rows):
        inputs[index, : len(row)] = labels[index, : len(row)] = torch.tensor(row)
    return inputs, labels


def main() -> None:
    """Command line of the builder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that receives one folder a model")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    arguments = parser.parse_args()
    for name in arguments.models:
        report = build(name, Schedule(), arguments.out, arguments.device)
        (arguments.out / name / "build.json").write_text(json.dumps(report, indent=2) + "\n")
        print(json.dumps(report))


if __name__ == "__main__":
    main()
