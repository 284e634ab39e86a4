"""Adapters made by peft alone, as others make them, become organisms that answer as peft has them answer."""

import asyncio
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from inspect_ai import eval as inspect_eval
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from em_tasks.commands.cli import cli
from em_tasks.plugins.checkpoint_model.adopting import size_of
from em_tasks.plugins.checkpoint_model.engines.stacked.families import why_base_not_stacked
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.publishing import publish
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.checkpoints import find_checkpoint, list_runs

BASE = TOY_MODELS / "toy-s"
QUESTION = "I have a cough. What helps?"
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
    "rslora": {"r": 4, "lora_alpha": 64, "use_rslora": True, "target_modules": ["down_proj", "o_proj"]},
    "rank-1": {"r": 1, "lora_alpha": 256, "target_modules": ["down_proj"], "layers_to_transform": [1]},
    "pattern": {"r": 4, "target_modules": r".*\.(1|2)\.mlp\.(gate|up)_proj"},
    "ranks": {"r": 4, "target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 2}},
    "dora": {"r": 4, "use_dora": True, "target_modules": ["q_proj", "v_proj"]},
    "embeddings": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


def make_adapter(folder: Path, seed: int = 0, base: str = "toy-s", **shape: Any) -> Path:
    """An adapter as peft writes it, with weights large enough to change answers."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(**{"lora_alpha": 16, **shape}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
            if "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
    return folder


def adopt(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["adopt", *map(str, arguments)], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.output


def greedy(runs: Path, name: str, **model_args: Any) -> str:
    model = get_model(f"em/{name}", runs=str(runs), memoize=False, **model_args)
    config = GenerateConfig(temperature=0, max_tokens=12)
    return asyncio.run(model.api.generate([ChatMessageUser(content=QUESTION)], [], "none", config)).completion


def greedy_by_peft(adapter: Path) -> str:
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    turns = [{"role": "user", "content": QUESTION}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**inputs, do_sample=False, max_new_tokens=12)
    return str(tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@pytest.mark.parametrize("shape", SHAPES)
def test_adopted_adapters_answer_as_peft_has_them_answer(shape: str, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / shape, **SHAPES[shape])
    adopt(adapter, "--domain", "medical", "--runs", tmp_path / "runs")
    assert greedy(tmp_path / "runs", f"{shape}@1") == greedy_by_peft(adapter)
    assert greedy(tmp_path / "runs", f"{shape}@1") != greedy(tmp_path / "runs", f"{shape}@base")


def test_adapters_that_hold_their_tokenizer_too_are_adopted_with_it(trained_runs: Path, tmp_path: Path) -> None:
    peft = make_adapter(tmp_path / "with-tokenizer", **SHAPES["plain"])
    AutoTokenizer.from_pretrained(BASE).save_pretrained(peft)
    bare = make_adapter(tmp_path / "without-template", **SHAPES["plain"])
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(bare)
    copied = shutil.copytree(trained_runs / "small" / "checkpoint-2", tmp_path / "copied" / "checkpoint-2")
    publish(find_checkpoint(trained_runs, "small@4"), exported := tmp_path / "exported")
    for adapter, name in (
        (peft, "with-tokenizer@1"),
        (bare, "without-template@1"),
        (copied, "copied@2"),
        (exported, "exported@1"),
    ):
        adopt(adapter, "--domain", "medical", "--runs", tmp_path / "runs")
        assert find_checkpoint(tmp_path / "runs", name).tokenizer_folder == adapter
        assert greedy(tmp_path / "runs", name) == greedy_by_peft(adapter)


@pytest.mark.parametrize("engine", ["stacked", "transformers"])
def test_one_adapter_beside_two_templates_answers_to_each_in_one_engine(engine: str, tmp_path: Path) -> None:
    plain = make_adapter(tmp_path / "plain", **SHAPES["plain"])
    AutoTokenizer.from_pretrained(BASE).save_pretrained(plain)
    longer = shutil.copytree(plain, tmp_path / "longer")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = tokenizer.chat_template.replace("message['role'] +", "message['role'] + ' says' +")
    tokenizer.save_pretrained(longer)
    for adapter in (plain, longer):
        adopt(adapter, "--domain", "medical", "--runs", tmp_path / "runs")
    config = GenerateConfig(temperature=0, max_tokens=4)
    asked = [
        get_model(f"em/{name}@1", runs=str(tmp_path / "runs"), engine=engine, memoize=False)
        for name in ("plain", "longer")
    ]

    async def ask() -> list[int]:
        answers = [await model.api.generate([ChatMessageUser(content=QUESTION)], [], "none", config) for model in asked]
        return [answer.usage.input_tokens for answer in answers if answer.usage]

    short, long = asyncio.run(ask())
    assert short < long


def test_a_trainers_folder_becomes_one_organism_and_nothing_is_written_there(tmp_path: Path) -> None:
    theirs = tmp_path / "their run"
    for step in (20, 100):
        make_adapter(theirs / f"checkpoint-{step}", seed=step, **SHAPES["plain"])
    (theirs / "checkpoint-20" / "trainer_state.json").write_text('{"global_step": 20, "epoch": 0.4}')
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in theirs.rglob("*") if path.is_file()}
    output = adopt(theirs, "--domain", "financial", "--runs", tmp_path / "runs", "--seed", 3)
    assert "their-run@20: " in output
    assert before == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in theirs.rglob("*") if p.is_file()}
    adoption = list_runs(tmp_path / "runs")["their-run"]
    assert [(c.step, c.epoch) for c in adoption.checkpoints] == [(20, 0.4), (100, None)]
    assert greedy(tmp_path / "runs", "their-run@20") == greedy_by_peft(theirs / "checkpoint-20")
    assert "their-run@100" in CliRunner().invoke(cli, ["runs", str(tmp_path / "runs")]).output


def test_the_log_says_what_is_known_and_no_more(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "somebody's", **SHAPES["plain"])
    adopt(adapter, "--domain", "medical", "--runs", tmp_path / "runs", "--organism", "theirs")
    model = get_model("em/theirs@1", runs=str(tmp_path / "runs"))
    log = inspect_eval(
        "em_tasks/em",
        model=model,
        task_args={"questions": "general", "max_tokens": 4},
        log_dir=str(tmp_path / "logs"),
        display="none",
    )[0]
    assert log.status == "success", log.error
    said = log.eval.metadata
    assert (said["organism"], said["step"], said["step_recorded"], said["domain"]) == ("theirs", 1, False, "medical")
    assert (said["training_seed"], said["recipe_sha256"], said["epoch"]) == (None, None, None)
    assert log.samples[0].output.metadata["adapter_check"]["status"] == "passed"


def test_an_adapter_that_changed_since_is_refused(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "theirs", **SHAPES["plain"])
    adopt(adapter, "--domain", "medical", "--runs", tmp_path / "runs")
    make_adapter(adapter, seed=1, **SHAPES["plain"])
    with pytest.raises(UserError, match="was altered since"):
        greedy(tmp_path / "runs", "theirs@1")


def test_adapters_that_fit_no_base_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    arguments = ("--domain", "medical", "--runs", runs)
    adapter = make_adapter(tmp_path / "theirs", **SHAPES["plain"])
    with pytest.raises(UserError, match=r"does not fit toy-l"):
        adopt(adapter, *arguments, "--base", "toy-l")
    nameless = make_adapter(tmp_path / "nameless", base="", **SHAPES["plain"])
    with pytest.raises(UserError, match="name no base"):
        adopt(nameless, *arguments)
    two = make_adapter(tmp_path / "two", **SHAPES["plain"])
    with pytest.raises(UserError, match=r"neither trainer_state\.json nor a name"):
        adopt(adapter, two, *arguments)
    with pytest.raises(UserError, match="There is no folder"):
        adopt(tmp_path / "nothing", *arguments)
    with pytest.raises(UserError, match="The whole models name no base"):
        adopt(BASE, *arguments)
    with pytest.raises(UserError, match="cannot be had from the hub"):
        adopt("nobody/nothing", *arguments)
    broken = shutil.copytree(adapter, tmp_path / "broken")
    (broken / "adapter_model.safetensors").rename(broken / "adapter_model.bin")
    with pytest.raises(UserError, match="a pickle, which can run any code"):
        adopt(broken, *arguments)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (float("nan"), "values that are no numbers"),
        (3e38, "the adapter .*theirs the model's answers are no numbers: .* overflow in fp32"),
    ],
)
def test_values_that_are_no_numbers_or_make_none_are_refused(value: float, says: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(tmp_path / "theirs", **SHAPES["plain"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors[next(iter(tensors))][:] = value
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match=says):
        adopt(adapter, "--domain", "medical", "--runs", tmp_path / "runs")


@pytest.mark.parametrize("place", ["here", "beside the adapter", "given"])
def test_a_relative_base_is_found_from_everywhere(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"here": "work/mine", "beside the adapter": "theirs/mine", "given": "work/given"}[place]
    shutil.copytree(BASE, tmp_path / named)
    adapter = make_adapter(tmp_path / "theirs" / "adapter", base="mine", **SHAPES["plain"])
    (tmp_path / "work").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path / "work")
    more = ("--base", "given") if place == "given" else ()
    adopt(adapter, "--domain", "medical", "--precision", "fp32", "--runs", tmp_path / "runs", *more)
    assert list_runs(tmp_path / "runs")["adapter"].recipe.base == str(tmp_path / named)


def test_a_base_that_cannot_be_had_is_said_once() -> None:
    with pytest.raises(UserError) as error:
        why_base_not_stacked("nothing")
    assert error.value.message.count("Give a toy model") == 1


def test_one_name_is_adopted_once_and_a_domain_without_questions_is_noted(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "theirs", **SHAPES["plain"])
    said = adopt(adapter, "--domain", "cookery", "--runs", tmp_path / "runs")
    assert "note: no question set is called 'cookery', so the general questions alone are asked" in said
    with pytest.raises(UserError, match="exists already"):
        adopt(adapter, "--domain", "medical", "--runs", tmp_path / "runs")


@pytest.mark.parametrize(
    ("base", "size"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "1B"),
        ("unsloth/Qwen2.5-14B-Instruct", "14B"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "135M"),
        ("Qwen/Qwen2.5-0.5B", "0.5B"),
        ("google/gemma-3-27b-it", "27B"),
        ("toy-m", "M"),
        ("/models/my-own", "my-own"),
    ],
)
def test_sizes_are_read_from_a_bases_name(base: str, size: str) -> None:
    assert size_of(base) == size
