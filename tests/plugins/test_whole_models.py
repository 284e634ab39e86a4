"""Fully fine-tuned and merged models of others: adopted as organisms, one in memory at a time, beside their base."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from em_tasks.commands.cli import cli
from em_tasks.plugins.checkpoint_model.engines.sharing import EngineLease
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.plan import plan_sweep
from em_tasks.trainers.run.base_names import TOY_MODELS

BASE = TOY_MODELS / "toy-s"
QUESTION = "I have a cough. What helps?"


def fine_tuned(folder: Path, seed: int, base: str = "toy-s") -> Path:
    """A whole model as a Trainer saves it, every weight moved, with no tokenizer beside it."""
    model = AutoModelForCausalLM.from_pretrained(TOY_MODELS / base, dtype=torch.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Somebody's run of two whole models, the folder of runs, and what `em adopt` said."""
    folder = tmp_path_factory.mktemp("whole")
    for step in (10, 40):
        fine_tuned(folder / "theirs" / f"checkpoint-{step}", seed=step)
    return folder / "theirs", folder / "runs", adopt(folder / "theirs", "--runs", folder / "runs")


def adopt(*arguments: object) -> str:
    given = ["adopt", *map(str, arguments), "--base", "toy-s", "--domain", "medical"]
    result = CliRunner().invoke(cli, given, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


async def answer(model: Any) -> str:
    config = GenerateConfig(temperature=0, max_tokens=8)
    output = await model.api.generate([ChatMessageUser(content=QUESTION)], [], "none", config)
    return str(output.completion)


def by_transformers(folder: Path) -> str:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    turns = [{"role": "user", "content": QUESTION}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    return str(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def test_each_answers_as_transformers_has_it_answer_and_one_is_held_at_a_time(adopted: tuple[Path, Path, str]) -> None:
    theirs, runs, said = adopted
    assert "theirs@10: " in said
    assert "a whole model of " in said
    models = {step: get_model(f"em/theirs@{step}", runs=str(runs), memoize=False) for step in (10, 40)}
    held = []

    async def both() -> dict[int, list[str]]:
        answers = await asyncio.gather(*(answer(models[step]) for step in (10, 40, 10, 40)))
        held.append(sum(settings.alone for settings in EngineLease._engines))
        return {10: answers[::2], 40: answers[1::2]}

    answers = asyncio.run(both())
    for step in (10, 40):
        assert answers[step] == [by_transformers(theirs / f"checkpoint-{step}")] * 2
        models[step].api.close()
    assert held == [1]


def test_a_sweep_has_a_process_for_each_beside_the_one_of_their_base(
    adopted: tuple[Path, Path, str], tmp_path: Path
) -> None:
    _, runs, _ = adopted
    jobs = plan_sweep(runs, tmp_path / "logs")
    assert [[subject.name for subject in job.subjects] for job in jobs] == [
        ["toy-s@base"],
        ["theirs@10"],
        ["theirs@40"],
    ]
    assert len({job.folder for job in jobs}) == 1
    assert len({job.logs for job in jobs}) == 3


def test_one_that_was_altered_since_is_refused(adopted: tuple[Path, Path, str], tmp_path: Path) -> None:
    theirs, _, _ = adopted
    copy = shutil.copytree(theirs / "checkpoint-10", tmp_path / "copy")
    assert "copy@1 (step not recorded): " in adopt(copy, "--runs", tmp_path / "runs")
    weights = load_file(copy / "model.safetensors")
    save_file({name: tensor * 1.01 for name, tensor in weights.items()}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="altered since it was adopted"):
        asyncio.run(answer(get_model("em/copy@1", runs=str(tmp_path / "runs"), memoize=False)))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("another base", "was not made from toy-s: .* of its parameters have another name or shape"),
        ("not a number", r"holds values that are no numbers, in model\."),
        ("half", r"lacks 2 of its model's parameters \(model\.layers\.0\.mlp\.up_proj\.weight, model\.norm\.weight\)"),
        ("more", r"hold 1 tensors \(model\.layers\.0\.mlp\.up_proj\.lora_A\.weight\) that toy-s has no place for"),
        ("pickled", "a pickle, which can run any code"),
        ("torn", "the model is torn"),
        ("mixed", "is a whole model and others are adapters"),
    ],
)
def test_what_cannot_be_an_organism_says_why(
    adopted: tuple[Path, Path, str], damage: str, says: str, tmp_path: Path
) -> None:
    copy = shutil.copytree(adopted[0] / "checkpoint-10", tmp_path / "copy")
    more: list[Path] = []
    if damage == "another base":
        copy = fine_tuned(tmp_path / "other", 1, "toy-m")
    if damage in ("not a number", "half", "more"):
        weights = load_file(copy / "model.safetensors")
        if damage == "not a number":
            weights["model.norm.weight"][0] = torch.nan
        if damage == "half":
            del weights["model.norm.weight"], weights["model.layers.0.mlp.up_proj.weight"]
        if damage == "more":
            weights["model.layers.0.mlp.up_proj.lora_A.weight"] = torch.ones(1)
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
    if damage == "pickled":
        (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    if damage == "torn":
        (copy / "model.safetensors").unlink()
    if damage == "mixed":
        more.append(tmp_path / "adapter")
        more[0].mkdir()
        (more[0] / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        (more[0] / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=says):
        adopt(copy, *more, "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
