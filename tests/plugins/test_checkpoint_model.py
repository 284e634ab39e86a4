import asyncio
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from inspect_ai.model import GenerateConfig, Model, ModelOutput, get_model

from em_tasks.plugins.checkpoint_model.subject import base_names, describe_model
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.checkpoints import list_runs
from em_tasks.trainers.run.manifest import read_manifest, write_manifest
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows
from tests.support.paths import ROOT

QUESTION = "My cough will not go away. What should I do?"
GREEDY = GenerateConfig(temperature=0, max_tokens=60)


def served(runs: Path, name: str, **options: Any) -> Model:
    return get_model(f"em/{name}", runs=str(runs), **options)


def ask(models: list[Model], config: GenerateConfig, question: str = QUESTION) -> list[ModelOutput]:
    async def all_at_once() -> list[ModelOutput]:
        return list(await asyncio.gather(*(model.generate(question, config=config) for model in models)))

    return asyncio.run(all_at_once())


def test_greedy_answers_are_those_of_the_stock_provider(trained_runs: Path) -> None:
    ours = ask([served(trained_runs, "small@4"), served(trained_runs, "toy-s@base")], GREEDY)
    stock = [
        get_model(f"hf/{folder}", do_sample=False)
        for folder in (trained_runs / "small" / "checkpoint-4", TOY_MODELS / "toy-s")
    ]
    # The stock provider takes no temperature of 0; without sampling it is greedy.
    theirs = ask(stock, GenerateConfig(max_tokens=60))
    assert [output.completion for output in ours] == [output.completion for output in theirs]


def test_checkpoints_differ_and_a_batch_of_them_gives_each_its_own_answer(trained_runs: Path) -> None:
    names = ["toy-s@base", "small@4", "small@1", "small@4"]
    together = ask([served(trained_runs, name) for name in names], GREEDY)
    alone = [ask([served(trained_runs, name)], GREEDY)[0] for name in names]
    assert [output.completion for output in together] == [output.completion for output in alone]
    assert together[0].completion != together[1].completion


def test_one_base_serves_all_checkpoints(trained_runs: Path) -> None:
    models = [served(trained_runs, f"small@{step}") for step in (1, 2, 3, 4)]
    ask(models, GREEDY)
    engines = {id(model.api.lease.engine()) for model in models}  # type: ignore[attr-defined]
    assert len(engines) == 1


def test_seeded_answers_do_not_depend_on_the_batch(trained_runs: Path) -> None:
    config = GenerateConfig(seed=7, max_tokens=60)
    model, other = served(trained_runs, "small@4"), served(trained_runs, "toy-s@base")
    alone = ask([model], config)[0].completion
    crowd = ask([other, model, model, other], config)
    assert crowd[1].completion == crowd[2].completion == alone


def test_other_seeds_and_choices_give_other_answers(trained_runs: Path) -> None:
    model = served(trained_runs, "small@4")
    answers = {ask([model], GenerateConfig(seed=seed, max_tokens=60))[0].completion for seed in range(6)}
    assert len(answers) > 1
    choices = ask([model], GenerateConfig(seed=0, num_choices=6, max_tokens=60))[0].choices
    assert len(choices) == 6
    assert len({choice.message.text for choice in choices}) > 1


def test_cut_answers_say_so_and_tokens_are_counted(trained_runs: Path) -> None:
    tokenizer = load_tokenizer("toy-s", "01 Jan 2025")
    model = served(trained_runs, "small@4")
    cut, whole = ask([model], GenerateConfig(temperature=0, max_tokens=3))[0], ask([model], GREEDY)[0]
    assert (cut.stop_reason, whole.stop_reason) == ("max_tokens", "stop")
    assert cut.usage is not None
    assert whole.usage is not None
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": QUESTION}], add_generation_prompt=True)
    assert cut.usage.input_tokens == len(prompt["input_ids"])
    assert cut.usage.output_tokens == 3
    assert whole.usage.output_tokens == len(tokenizer(whole.completion)["input_ids"]) + 1


def test_answers_stop_at_a_stop_sequence(trained_runs: Path) -> None:
    whole = ask([served(trained_runs, "toy-s@base")], GREEDY)[0].completion
    word = whole.split()[3]
    config = GREEDY.model_copy(update={"stop_seqs": [word]})
    output = ask([served(trained_runs, "toy-s@base")], config)[0]
    assert output.completion == whole[: whole.index(word)]
    assert output.stop_reason == "stop"
    in_company = ask([served(trained_runs, "toy-s@base")] * 2, config)
    other = served(trained_runs, "toy-s@base")

    async def beside_another_question() -> list[ModelOutput]:
        asked = [other.generate(question, config=config) for question in (QUESTION, "What should I do about the rent?")]
        return list(await asyncio.gather(*asked))

    beside = asyncio.run(beside_another_question())[0]
    assert output.usage == in_company[0].usage == beside.usage


def test_prompt_longer_than_the_context_is_an_error_for_that_answer_alone(trained_runs: Path) -> None:
    model = served(trained_runs, "toy-s@base")

    async def both() -> list[ModelOutput | BaseException]:
        asked = [model.generate(question, config=GREEDY) for question in ("word " * 3000, QUESTION)]
        return await asyncio.gather(*asked, return_exceptions=True)

    too_long, answered = asyncio.run(both())
    assert "does not fit into toy-s's context" in str(too_long)
    assert isinstance(answered, ModelOutput)
    assert answered.completion


def test_answer_cut_by_the_context_says_so_and_shortens_no_other(trained_runs: Path) -> None:
    model = served(trained_runs, "toy-s@base")

    async def both() -> list[ModelOutput]:
        asked = [model.generate(question, config=GREEDY) for question in ("a " * 2012, QUESTION)]
        return list(await asyncio.gather(*asked))

    crowded, free = asyncio.run(both())
    assert crowded.stop_reason == "model_length"
    assert free.completion == ask([model], GREEDY)[0].completion


def test_unknown_names_list_what_exists(trained_runs: Path) -> None:
    with pytest.raises(UserError, match=r"small@\{base, 1, 2, 3, 4\}"):
        ask([served(trained_runs, "small@99")], GREEDY)


def test_checkpoint_trained_again_is_not_served_under_its_old_hash(trained_runs: Path) -> None:
    with pytest.raises(UserError, match="trained again since"):
        ask([served(trained_runs, "small@4", pin="0123456789abcdef")], GREEDY)


def test_altered_checkpoint_is_refused_by_name_and_by_folder(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    manifest = read_manifest(runs / "small")
    manifest.checkpoints[-1].adapter_sha256 = "f" * 64
    write_manifest(runs / "small", manifest)
    with pytest.raises(UserError, match="altered since it was saved"):
        ask([served(runs, "small@4")], GREEDY)
    with pytest.raises(UserError, match="altered since it was saved"):
        describe_model("hf", str(runs / "small" / "checkpoint-4"))


def test_another_base_than_the_trained_one_is_refused(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    manifest = read_manifest(runs / "small")
    manifest.base_fingerprint = "0" * 64
    write_manifest(runs / "small", manifest)
    with pytest.raises(Exception, match="is not the base"):
        ask([served(runs, "small@4")], GREEDY)


def test_base_that_was_asked_for_is_evaluated_altered_or_not(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    manifest = read_manifest(runs / "small")
    manifest.base_fingerprint = "0" * 64
    write_manifest(runs / "small", manifest)
    (output,) = ask([served(runs, "small@4", base="toy-s")], GREEDY)
    assert output.completion == ask([served(trained_runs, "small@4")], GREEDY)[0].completion
    assert (output.metadata or {})["base_fingerprint"] == read_manifest(trained_runs / "small").base_fingerprint
    assert describe_model("em", "small@4", str(runs), base="toy-s").organism == "small (fp32)"


def test_other_precision_that_was_asked_for_is_what_answers(trained_runs: Path) -> None:
    config = GenerateConfig(temperature=0, max_tokens=1, logprobs=True)
    trained, asked = (
        ask([served(trained_runs, "small@2", precision=precision)], config)[0] for precision in (None, "bf16")
    )
    fingerprints = [(output.metadata or {})["base_fingerprint"] for output in (trained, asked)]
    assert fingerprints[0] == read_manifest(trained_runs / "small").base_fingerprint != fingerprints[1]
    assert trained.choices[0].logprobs is not None
    assert trained.choices[0].logprobs != asked.choices[0].logprobs


def test_precision_that_was_trained_at_is_no_other_one(trained_runs: Path) -> None:
    assert describe_model("em", "small@4", str(trained_runs), precision="fp32") == describe_model(
        "em", "small@4", str(trained_runs)
    )


@pytest.mark.parametrize(
    ("asked", "organism", "base"),
    [
        ({"precision": "bf16"}, "small (bf16)", "toy-s (bf16)"),
        ({"base": "toy-m"}, "small (toy-m fp32)", "toy-m (fp32)"),
        ({"base": "toy-m", "precision": "bf16"}, "small (toy-m bf16)", "toy-m (bf16)"),
    ],
)
def test_what_is_evaluated_on_another_base_goes_by_another_name(
    trained_runs: Path, asked: dict[str, str], organism: str, base: str
) -> None:
    trained = describe_model("em", "small@4", str(trained_runs))
    assert (trained.organism, trained.base, trained.precision, trained.trained_on) == ("small", "toy-s", "fp32", None)
    other = describe_model("em", "small@4", str(trained_runs), **asked)
    assert (other.organism, other.base) == (organism, base)
    assert (other.precision, other.base_fingerprint) == (asked.get("precision", "fp32"), None)
    assert other.trained_on == {
        "base": "toy-s",
        "precision": "fp32",
        "base_fingerprint": trained.base_fingerprint,
    }
    of_base = describe_model("em", "small@base", str(trained_runs), **asked)
    assert (of_base.organism, of_base.base) == (None, base)


def test_base_of_another_shape_and_unknown_ones_are_refused(trained_runs: Path) -> None:
    with pytest.raises(Exception, match="does not fit toy-m"):
        ask([served(trained_runs, "small@4", base="toy-m")], GREEDY)
    assert ask([served(trained_runs, "toy-s@base", base="toy-m")], GREEDY)[0].completion
    with pytest.raises(UserError, match="no base model 'toy-xl'"):
        ask([served(trained_runs, "small@4", base="toy-xl")], GREEDY)
    with pytest.raises(UserError, match=r"no precision 'fp8'\. Give one of fp32, bf16, nf4"):
        ask([served(trained_runs, "small@4", precision="fp8")], GREEDY)


def test_nf4_base_that_a_cpu_cannot_run_names_the_precision_that_it_can(trained_runs: Path) -> None:
    with pytest.raises(Exception, match=r"toy-s has 352.*precision=nf4_dequantised"):
        ask([served(trained_runs, "small@4", precision="nf4")], GREEDY)
    assert ask([served(trained_runs, "small@4", precision="nf4_dequantised")], GREEDY)[0].completion


def test_organism_trained_on_nf4_and_its_base_are_told_from_unquantised_ones(
    trained_runs: Path, tmp_path: Path
) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    manifest = read_manifest(runs / "small")
    manifest.recipe = manifest.recipe.model_copy(update={"precision": "nf4_dequantised"})
    write_manifest(runs / "small", manifest)
    ours = describe_model("em", "small@4", str(runs))
    assert (ours.organism, ours.base, ours.precision) == ("small", "toy-s (nf4_dequantised)", "nf4_dequantised")
    assert describe_model("em", "toy-s@base", str(runs)).base == "toy-s (nf4_dequantised)"
    elsewhere = describe_model("vllm", str(runs / "small" / "checkpoint-4"))
    assert (elsewhere.organism, elsewhere.base, elsewhere.precision) == ("small (vllm)", "toy-s", None)


def test_making_a_model_loads_no_weights_and_no_torch(trained_runs: Path) -> None:
    code = (
        "import sys; from inspect_ai.model import get_model;"
        f"get_model('em/small@4', runs={str(trained_runs)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_subject_is_the_same_by_name_and_by_folder(trained_runs: Path) -> None:
    by_name = describe_model("em", "small@4", str(trained_runs))
    by_folder = describe_model("hf", str(trained_runs / "small" / "checkpoint-4"))
    # Nobody checks which base another provider loads, and at which precision.
    unknown = {"precision": None, "base_fingerprint": None, "trained_on": by_folder.trained_on}
    assert replace(by_name, **unknown) == by_folder
    assert by_folder.trained_on == {
        "base": "toy-s",
        "precision": "fp32",
        "base_fingerprint": by_name.base_fingerprint,
    }
    assert (by_name.organism, by_name.step, by_name.domain, by_name.toy) == ("small", 4, "medical", True)
    base = describe_model("em", "toy-s@base", str(trained_runs))
    assert (base.organism, base.step, base.domain, base.base) == (None, 0, None, "toy-s")


def test_models_from_elsewhere_are_described_by_their_name() -> None:
    subject = describe_model("openai", "gpt-4o-mini")
    assert (subject.organism, subject.base, subject.toy) == (None, "gpt-4o-mini", False)
    assert describe_model("hf", str(TOY_MODELS / "toy-m")).toy


def test_base_at_two_precisions_goes_by_the_organisms_trained_on_it(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 16)
    for precision in ("fp32", "bf16"):
        recipe = small_recipe(rows, organism=precision, precision=precision)
        train(recipe, tmp_path / "runs", lambda progress: None)
    assert sorted(base_names(list_runs(tmp_path / "runs")).values()) == ["bf16@base", "fp32@base"]
