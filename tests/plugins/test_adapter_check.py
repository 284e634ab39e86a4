"""Faults that an engine could have without an error, planted in a real model one by one, must all be noticed."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from em_tasks.plugins.checkpoint_model.adapter_check import AdapterCheck, compare
from em_tasks.trainers.base import load_base, load_tokenizer
from em_tasks.trainers.data.chat import encode_prompt
from em_tasks.trainers.loop.references import reference_of
from em_tasks.trainers.passes.packing import use_packed_attention
from em_tasks.trainers.run.base_names import Precision
from em_tasks.trainers.run.checkpoints import find_checkpoint
from em_tasks.trainers.run.reference import PROMPTS, TOKENS, TOP, Place, Reference, ReferenceAnswer, read_reference

STEPS = (1, 2, 3, 4)


@dataclass
class Given:
    input_tokens: int
    tokens: list[int]
    top_logprobs: list[list[tuple[int, float]]]


class Plain:
    """The plainest engine: no batches, no cache."""

    model: Any
    prompts: list[list[int]]

    def ask(self, step: int | None, prompts: list[list[int]] | None = None, temperature: float = 1.0) -> list[Given]:
        self.model.set_adapter(str(step or 1))
        rows = [list(prompt) for prompt in prompts or self.prompts]
        width = max(map(len, rows)) + TOKENS
        given = [Given(len(row), [], []) for row in rows]
        for _ in range(TOKENS):
            # Padding stands behind, where causal attention never looks.
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            with torch.no_grad():
                if step is None:
                    with self.model.disable_adapter():
                        logits = self.model(ids, use_cache=False).logits
                else:
                    logits = self.model(ids, use_cache=False).logits
            for n, (row, answer) in enumerate(zip(rows, given, strict=True)):
                top = (logits[n, len(row) - 1].float() / temperature).log_softmax(-1).topk(TOP)
                answer.top_logprobs.append(list(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
                answer.tokens.append(answer.top_logprobs[-1][0][0])
                row.append(answer.tokens[-1])
        return given


class Bench(Plain):
    """toy-s with all checkpoints of `small` on it."""

    def __init__(self, runs: Path, precision: Precision) -> None:
        self.precision = precision
        self.references: dict[int, Reference] = {}
        base = load_base("toy-s", precision, "cpu")
        for step in STEPS:
            checkpoint = find_checkpoint(runs, f"small@{step}")
            reference = read_reference(checkpoint)
            assert reference is not None
            self.references[step] = reference
            if step == 1:
                self.model = PeftModel.from_pretrained(base, str(checkpoint.folder), adapter_name="1").eval()
            else:
                self.model.load_adapter(str(checkpoint.folder), adapter_name=str(step))
        self.tokenizer = load_tokenizer("toy-s", "01 Jan 2025")
        self.prompts = [encode_prompt(self.tokenizer, messages) for messages in PROMPTS]

    def check(self, step: int | None, given: list[Given]) -> AdapterCheck:
        others = {f"small@{other}": self.references[other] for other in STEPS if other != step}
        return compare(self.references[step or 4], given, self.precision, others, base=step is None)

    def layers(self) -> list[Any]:
        return list(self.model.get_base_model().model.layers)

    def lora(self, name: str, layer: int | None = None) -> list[Any]:
        """The adapted modules of that name, in one layer or all."""
        where = self.layers() if layer is None else [self.layers()[layer]]
        return [m for part in where for n, m in part.named_modules() if n.endswith(name) and hasattr(m, "lora_B")]


@pytest.fixture(scope="module")
def bench(trained_runs: Path) -> Bench:
    return Bench(trained_runs, "fp32")


@contextmanager
def kept(*tensors: torch.Tensor) -> Iterator[None]:
    """Puts the tensors' values back afterwards."""
    before = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)


def no_adapter(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    return bench.ask(None)


def another_checkpoint(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    return bench.ask(chance.choice([other for other in STEPS if other != step]))


def another_strength(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    factor = chance.choice([0.5, 0.7, 0.85, 1.15, 1.4, 2.0, 4.0])
    weights = [m.lora_B[str(step)].weight for m in bench.lora("_proj")]
    with kept(*weights), torch.no_grad():
        for weight in weights:
            weight.mul_(factor)
        return bench.ask(step)


def a_layer_missing(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    weights = [m.lora_B[str(step)].weight for m in bench.lora("_proj", chance.randrange(len(bench.layers())))]
    with kept(*weights), torch.no_grad():
        for weight in weights:
            weight.zero_()
        return bench.ask(step)


def a_projection_missing(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    weights = [m.lora_B[str(step)].weight for m in bench.lora(chance.choice(["q_proj", "v_proj", "down_proj"]))]
    with kept(*weights), torch.no_grad():
        for weight in weights:
            weight.zero_()
        return bench.ask(step)


def gate_and_up_exchanged(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    gates, ups = ([m.lora_B[str(step)].weight for m in bench.lora(name)] for name in ("gate_proj", "up_proj"))
    with kept(*gates, *ups), torch.no_grad():
        for gate, up in zip(gates, ups, strict=True):
            value = gate.clone()
            gate.copy_(up)
            up.copy_(value)
        return bench.ask(step)


def halves_of_two_checkpoints(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    other = str(chance.choice([other for other in STEPS if other != step]))
    with kept(*(m.lora_B[str(step)].weight for m in bench.lora("_proj"))), torch.no_grad():
        for module in bench.lora("_proj"):
            module.lora_B[str(step)].weight.copy_(module.lora_B[other].weight)
        return bench.ask(step)


def wrong_base(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    generator = torch.Generator().manual_seed(chance.randrange(1000))
    weight = bench.lora("o_proj", chance.randrange(len(bench.layers())))[0].base_layer.weight
    with kept(weight), torch.no_grad():
        weight.mul_(1 + 0.1 * torch.randn(weight.shape, generator=generator))
        return bench.ask(step)


def adapter_merged_as_well(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    modules = bench.lora("_proj")
    with kept(*(m.base_layer.weight for m in modules)), torch.no_grad():
        for module in modules:
            module.base_layer.weight.add_(module.get_delta_weight(str(step)))
        return bench.ask(step)


def two_bos(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    return bench.ask(step, [[prompt[0], *prompt] for prompt in bench.prompts])


def another_template(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    """The same number of tokens, one of them another: a date, a role's name, an end of turn."""
    place = chance.randrange(1, 6)
    return bench.ask(step, [[*p[:-place], (p[-place] + 1) % 1024, *p[len(p) - place + 1 :]] for p in bench.prompts])


def no_generation_prompt(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    return bench.ask(step, [prompt[:-1] for prompt in bench.prompts])


def rows_mixed_up(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    given = bench.ask(step)
    shift = chance.randrange(1, len(given))
    others = [*given[shift:], *given[:shift]]
    return [Given(g.input_tokens, o.tokens, o.top_logprobs) for g, o in zip(given, others, strict=True)]


def stale_cache(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    """The prompt was read under another adapter, which leaves its mark on every place after the first."""
    other = bench.ask(chance.choice([None, *(o for o in STEPS if o != step)]))
    given = bench.ask(step)
    for answer, wrong in zip(given, other, strict=True):
        answer.tokens[1:], answer.top_logprobs[1:] = wrong.tokens[1:], wrong.top_logprobs[1:]
    return given


def tempered(bench: Bench, step: int, chance: random.Random) -> list[Given]:
    return bench.ask(step, temperature=chance.choice([0.6, 0.9, 1.1]))


FAULTS: list[Callable[[Bench, int, random.Random], list[Given]]] = [
    no_adapter,
    another_checkpoint,
    another_strength,
    a_layer_missing,
    a_projection_missing,
    gate_and_up_exchanged,
    halves_of_two_checkpoints,
    wrong_base,
    adapter_merged_as_well,
    two_bos,
    another_template,
    no_generation_prompt,
    rows_mixed_up,
    stale_cache,
    tempered,
]


def test_sound_engine_passes(bench: Bench) -> None:
    for step in STEPS:
        check = bench.check(step, bench.ask(step))
        assert check.status == "passed", check
        assert check.difference is not None
        assert check.difference < 1e-4
        assert check.strength == pytest.approx(1, abs=1e-3)
        assert check.compared == len(PROMPTS) * TOKENS * TOP
    assert bench.check(None, bench.ask(None)).status == "passed"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_planted_faults_are_all_noticed(bench: Bench, fault: Callable[..., list[Given]]) -> None:
    """15 kinds with 7 seeds each: 105 of 105."""
    for seed in range(7):
        chance = random.Random(f"{fault.__name__} {seed}")
        step = chance.choice(STEPS)
        check = bench.check(step, fault(bench, step, chance))
        assert check.status == "failed", f"seed {seed}, step {step}: {check}"
        assert check.reason


def test_adapter_left_on_the_base_is_noticed(bench: Bench) -> None:
    for step in STEPS:
        check = bench.check(None, bench.ask(step))
        assert check.status == "failed"
        assert "as if an adapter were on the base" in str(check.reason)


def test_reason_names_what_stands_in_its_place(bench: Bench) -> None:
    chance = random.Random(0)
    assert str(bench.check(4, no_adapter(bench, 4, chance)).reason).endswith("as if there were no adapter")
    assert "its chat template makes" in str(bench.check(4, two_bos(bench, 4, chance)).reason)


def spoken(moved: Any, off: Any, precision: str) -> AdapterCheck:
    """The check where an adapter moves the log probabilities by `moved` and the engine is `off` of them (nats)."""
    ids = list(range(TOP))
    logprobs = -5.0 - 0.1 * np.arange(TOP)
    place = Place(token=0, ids=ids, logprobs=logprobs.tolist(), base=(logprobs - moved).tolist())
    expected = ReferenceAnswer(prompt_tokens=3, places=[place], base_ids=ids, base_logprobs=logprobs.tolist())
    reference = Reference(prompts=[[{"role": "user", "content": "Hello"}]], answers=[expected])
    return compare(reference, [Given(3, [0], [list(zip(ids, (logprobs + off).tolist(), strict=True))])], precision)


SIGNS = np.where(np.arange(TOP) % 2 == 0, 1.0, -1.0)


@pytest.mark.parametrize(
    ("moved", "precision", "status"),
    [(8.0, "bf16", "passed"), (8.0, "fp32", "failed"), (4.0, "bf16", "failed"), (8.0, "nf4", "passed")],
)
def test_a_strong_adapters_numbers_may_be_rounded_by_more(moved: float, precision: str, status: str) -> None:
    """Met with SmolLM2 on a CPU: 0.128 nats off, at 1.00 times its strength, where the adapter moves them by 4."""
    check = spoken(-moved, 0.24 * SIGNS, precision)
    assert check.status == status
    assert check.difference == pytest.approx(0.24)
    assert check.strength == pytest.approx(1, abs=1e-6)


def test_rounding_alone_is_no_adapter_to_stand_on() -> None:
    """Met with SmolLM2 in bf16 on a CPU: an adapter of zeros, 0.086 nats off on a line of 0.047 that rounding made."""
    check = spoken(0.047 * SIGNS, -0.06 * SIGNS, "bf16")
    assert (check.status, check.strength) == ("passed", None)
    assert spoken(0.047 * SIGNS, -0.06 * SIGNS, "fp32").status == "failed"
    left_out = spoken(0.27 * SIGNS, -0.27 * SIGNS, "bf16")
    assert str(left_out.reason).endswith("as if there were no adapter")
    assert spoken(0.27 * SIGNS, -0.135 * SIGNS, "bf16").status == "failed"  # Within the bound, at half its strength.


class Young(Plain):
    """toy-s in bf16 with an adapter that is new or has made a first tiny step."""

    def __init__(self, moved: float) -> None:
        base, tokenizer = load_base("toy-s", "bf16", "cpu"), load_tokenizer("toy-s", "01 Jan 2025")
        use_packed_attention(base)
        torch.manual_seed(0)
        self.model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"), adapter_name="1")
        for name, weight in self.model.named_parameters():
            if "lora_B" in name:
                weight.data.add_(moved * torch.randn_like(weight))
        self.reference = Reference.model_validate_json(reference_of(self.model, tokenizer))
        self.model.set_attn_implementation("eager")  # Whose numbers are rounded elsewhere than training's.
        self.prompts = [encode_prompt(tokenizer, messages) for messages in PROMPTS]


@pytest.mark.parametrize("moved", [0.0, 1e-5, 1e-4])
def test_a_young_adapter_in_coarse_numbers_is_not_refused_for_rounding(moved: float) -> None:
    """Met on a CPU in bf16: an adapter after one step of warm-up was refused as of three times its strength."""
    young = Young(moved)
    for step in (1, None):
        check = compare(young.reference, young.ask(step), "bf16", base=step is None)
        assert check.status == "passed", check
        assert check.difference is not None
        assert 0.01 < check.difference < 2 * (young.reference.rounding or 0)


@contextmanager
def scaled(bench: Bench, step: int, module: str, factor: float) -> Iterator[None]:
    weights = [m.lora_B[str(step)].weight for m in bench.lora(module)]
    with kept(*weights), torch.no_grad():
        for weight in weights:
            weight.mul_(factor)
        yield


def test_faults_within_the_bound_of_coarse_numbers_are_told_by_their_direction(bench: Bench) -> None:
    """Each within bf16's 0.2 nats, and beside noise of 0.01."""
    reference = bench.references[4].model_copy(update={"rounding": 0.01})
    others = {f"small@{step}": bench.references[step] for step in STEPS[:3]}

    def checked(given: list[Given]) -> AdapterCheck:
        noise = np.random.default_rng(0)
        for answer in given:
            answer.top_logprobs = [[(t, v + 0.01 * noise.standard_normal()) for t, v in p] for p in answer.top_logprobs]
        return compare(reference, given, "bf16", others)

    assert checked(bench.ask(4)).status == "passed"
    with scaled(bench, 4, "q_proj", 0.0):
        check = checked(bench.ask(4))
    assert check.difference is not None
    assert check.difference < 0.2
    assert check.reason == "it answers as if q_proj had no adapter"
    assert checked(bench.ask(3)).reason == "it answers as small@3 did at training"
