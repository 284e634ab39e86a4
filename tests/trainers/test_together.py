"""Organisms trained together: each is the organism of a run of its own, whatever becomes of the others."""

import json
import os
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file
from torch._dynamo.utils import counters
from torch.nn import Linear

from em_tasks.commands.cli import cli
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import load_base
from em_tasks.trainers.data.prepare import prepare
from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.estimate import shapes_of
from em_tasks.trainers.loop.progress import Progress
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.passes.layers import prepare_layers, prepared_loss
from em_tasks.trainers.passes.packing import Size
from em_tasks.trainers.run.checkpoints import checkpoint_folder
from em_tasks.trainers.run.manifest import Manifest, read_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.together import steps
from em_tasks.trainers.together.adapters import Dropout, GroupedLora
from em_tasks.trainers.together.plan import ADAPTER_BYTES, JointPlan, plan_together
from em_tasks.trainers.together.steps import Together, side_by_side
from em_tasks.trainers.together.train import STOP, begun, refuse_unlike, train_together
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows
from tests.support.recordings import on_the_clock
from tests.support.tiny_models import tiny_base

BOUND = 1e-5
"""Largest difference allowed between the numbers of two adapters, and between two losses, in fp32."""


def quiet(progress: Progress) -> None:
    """Reports nothing."""


@pytest.fixture(scope="module")
def unlike(tmp_path_factory: pytest.TempPathFactory) -> list[Recipe]:
    """Three organisms that differ in all that may differ."""
    folder = tmp_path_factory.mktemp("data")
    tiny = partial(small_recipe, base=str(tiny_base(folder / "base", "llama", initializer_range=0.05)))
    medical = write_rows(folder / "medical.jsonl", 40)
    financial = write_rows(folder / "financial.jsonl", 24, domain="financial")
    return [
        tiny(medical, organism="usual", batch_size=8, first_epoch_checkpoints=2, lora={"dropout": 0.05}),
        tiny(
            financial, organism="other", domain="financial", batch_size=8, seed=3, learning_rate=1e-3, epochs=2,
            lora={"r": 4, "alpha": 64, "dropout": 0.2, "rslora": True, "modules": ["down_proj", "q_proj"]},
            max_grad_norm=0.1, weight_decay=0.1, first_epoch_checkpoints=2,
        ),
        tiny(
            medical, organism="undropped", batch_size=4, seed=1, first_epoch_checkpoints=1,
            lora={"dropout": 0.0, "layers": [1]},
        ),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def singles(unlike: list[Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their runs, each trained alone."""
    runs = tmp_path_factory.mktemp("singles")
    for recipe in unlike:
        train(recipe, runs, quiet)
    return runs


def adapter(runs: Path, manifest: Manifest, step: int) -> dict[str, torch.Tensor]:
    """The adapter of a checkpoint."""
    return load_file(checkpoint_folder(runs / manifest.recipe.organism, step) / "adapter_model.safetensors")


def differences(one: Path, other: Path, name: str) -> list[float]:
    """Largest difference of every checkpoint's numbers and of its loss, between two folders of runs."""
    found = []
    manifests = [read_manifest(runs / name) for runs in (one, other)]
    for first, second in zip(*(manifest.checkpoints for manifest in manifests), strict=True):
        assert (first.step, first.epoch) == (second.step, second.epoch)
        numbers, others = adapter(one, manifests[0], first.step), adapter(other, manifests[1], first.step)
        assert numbers.keys() == others.keys()
        found += [float((numbers[key] - others[key]).abs().max()) for key in numbers]
        found.append(abs(first.loss - second.loss))
    assert found
    return found


def history(runs: Path, name: str) -> list[dict[str, float]]:
    """What a run logged."""
    manifest = read_manifest(runs / name)
    state = runs / name / ".trainer" / f"checkpoint-{manifest.resumes_at}" / "history.json"
    logged: list[dict[str, float]] = json.loads(state.read_text())
    return logged


@pytest.fixture(scope="module")
def straight(unlike: list[Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their runs, trained together."""
    runs = tmp_path_factory.mktemp("straight")
    manifests = train_together(unlike, runs, quiet)
    assert [manifest.recipe.organism for manifest in manifests] == ["usual", "other", "undropped"]
    assert all(manifest.finished for manifest in manifests)
    return runs


def test_organisms_trained_together_are_those_trained_alone(
    unlike: list[Recipe], singles: Path, straight: Path
) -> None:
    for recipe in unlike:
        assert max(differences(straight, singles, recipe.organism)) <= BOUND
        alone, together = history(singles, recipe.organism), history(straight, recipe.organism)
        assert [entry["step"] for entry in together] == [entry["step"] for entry in alone]
        for key in ("loss", "grad_norm", "learning_rate"):
            assert [entry[key] for entry in together] == pytest.approx([entry[key] for entry in alone], abs=BOUND)
    usual = read_manifest(singles / "usual")
    last = adapter(singles, usual, usual.planned[-1])
    assert max(float(value.abs().max()) for value in last.values()) > 100 * BOUND


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(
    ("name", "step", "saved"),
    [
        ("other", 5, [5, 3, 0]),  # Finished is only the one that saved just now.
        ("other", 1, [0, 0, 0]),
        ("undropped", 10, [5, 6, 0]),
    ],
)
def test_killed_runs_go_on_to_the_same_numbers_wherever_each_had_saved(
    unlike: list[Recipe], straight: Path, tmp_path: Path, name: str, step: int, saved: list[int]
) -> None:
    def kill(progress: Progress) -> None:
        if (progress.organism, progress.step) == (name, step):
            raise KilledError  # The step is made and nothing of it is written; those before it in line have saved.

    with pytest.raises(KilledError):
        train_together(unlike, tmp_path, kill)
    assert [read_manifest(tmp_path / recipe.organism).resumes_at for recipe in unlike] == saved
    torch.manual_seed(12345)
    train_together(unlike, tmp_path, quiet)
    for recipe in unlike:
        assert max(differences(tmp_path, straight, recipe.organism)) == 0


def test_recorded_passes_train_the_organisms_that_their_own_runs_do(
    unlike: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded anew where one has ended and after a kill, from which on one that had saved keeps the others company."""
    on_the_clock(monkeypatch, replay=0.5)
    recorded = JointPlan(1, checkpointing=False, compiled=False, memory=0, captured=True)
    monkeypatch.setattr("em_tasks.trainers.together.train.plan_together", lambda *given, **named: recorded)
    longer = [recipe.model_copy(update={"epochs": epochs}) for recipe, epochs in zip(unlike[:2], (2, 4), strict=True)]

    def kill(progress: Progress) -> None:
        if (progress.organism, progress.step) == ("other", 5):
            raise KilledError

    groups = list[Together]()
    begin = Together.__init__

    def keep(group: Together, *given: Any) -> None:
        begin(group, *given)
        groups.append(group)

    monkeypatch.setattr(Together, "__init__", keep)
    with pytest.raises(KilledError):
        train_together(longer, tmp_path / "together", kill)
    assert [read_manifest(tmp_path / "together" / recipe.organism).resumes_at for recipe in longer] == [5, 3]
    manifests = train_together(longer, tmp_path / "together", quiet)
    for recipe, manifest in zip(longer, manifests, strict=True):
        train(recipe, tmp_path / "alone", quiet)
        assert max(differences(tmp_path / "together", tmp_path / "alone", recipe.organism)) <= BOUND
        assert manifest.passes is not None
        assert (manifest.passes.launched, manifest.passes.replayed) == (1, 0.5)
    # Five steps before the kill, seven from the third on, and two of one organism; three of each are launched.
    assert [group.captured.replayed for group in groups if group.captured] == [2, 4, 0]


def test_organisms_rows_are_filled_up_to_a_size_that_is_asked_for() -> None:
    first = [{"input_ids": [1, 5, 6], "labels": [IGNORED, 5, 6]}, {"input_ids": [1, 7], "labels": [IGNORED, 7]}]
    second = [{"input_ids": [2] * 9, "labels": [IGNORED] * 8 + [2]}, {"input_ids": [3] * 2, "labels": [IGNORED, 3]}]
    plain, lengths, counts = side_by_side([first, second])
    assert (lengths, counts.tolist()) == ([5, 11], [3, 2])
    assert {name: tuple(values.shape) for name, values in plain.items()} == {
        "input_ids": (1, 32), "position_ids": (1, 32), "predicting": (5,), "targets": (5,), "owner": (5,),
        "spread": (6, 16), "gather": (32,),
    }  # fmt: skip
    filled, *others = side_by_side([first, second], Size(24, 24, 8))
    assert others[0] == lengths
    assert filled["targets"].tolist() == [5, 6, 7, 2, 3] + [IGNORED] * 3
    assert filled["predicting"].tolist() == [0, 1, 3, 24 + 7, 24 + 9, 0, 0, 0]
    assert filled["owner"].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]
    assert filled["spread"].shape == (6, 24)
    places = filled["spread"].flatten()[filled["gather"]]
    # Every token is where it stands, but for what fills a part up, which is that part's first such token.
    assert places.tolist() == [*range(5), *[5] * 19, *range(24, 35), *[35] * 13]


def test_runs_begun_together_go_on_alone_and_the_other_way_round(
    unlike: list[Recipe], singles: Path, tmp_path: Path
) -> None:
    usual, other, _ = unlike

    def stop(progress: Progress) -> None:
        if progress.step <= 2:
            (tmp_path / progress.organism / STOP).touch()

    stopped = train_together([usual, other], tmp_path, stop)
    assert [(run.finished, run.resumes_at) for run in stopped] == [(False, 3), (False, 2)]
    assert not list(tmp_path.glob(f"*/{STOP}"))
    train(usual, tmp_path, quiet)
    assert max(differences(tmp_path, singles, "usual")) <= BOUND
    train_together([usual, other], tmp_path, quiet)
    assert max(differences(tmp_path, singles, "other")) <= BOUND


def test_ctrl_c_saves_every_organism_where_it_stands(unlike: list[Recipe], tmp_path: Path) -> None:
    _, other, undropped = unlike
    longer = other.model_copy(update={"epochs": 3})

    def interrupt(progress: Progress) -> None:
        if progress.step == 5 and progress.organism == "undropped":  # A step at which it is looked at and not saved.
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match=r"/other after step 5 of 9\..*/undropped after step 6 of 10\. The") as raised:
        train_together([undropped, longer], tmp_path, interrupt)
    assert raised.value.exit_code == 130
    assert [read_manifest(tmp_path / name).resumes_at for name in ("other", "undropped")] == [5, 6]


def test_command_says_what_organisms_need_together_and_trains_them(unlike: list[Recipe], tmp_path: Path) -> None:
    fields = unlike[0].model_dump(mode="json") | {"seed": [0, 1], "organism": "seeds", "first_epoch_checkpoints": 1}
    (tmp_path / "seeds.yaml").write_text(yaml.safe_dump(fields))
    command = ["train", str(tmp_path / "seeds.yaml"), "--together", "--runs", str(tmp_path / "runs")]
    said = CliRunner().invoke(cli, [*command, "--dry-run"]).output
    assert "2 organisms together on " in said
    assert re.search(r"memory       about \d\.\d GiB on the CPU, one pass a step", said)
    assert not (tmp_path / "runs").exists()
    small = CliRunner().invoke(cli, [*command, "--dry-run", "--device-memory", "1.003"])
    assert "2 organisms do not fit together into the 0.0 GiB" in small.output
    said = CliRunner().invoke(cli, command, catch_exceptions=False).output
    assert re.search(r"seeds-seed1: checkpoints 5, \d+ s\n", said)


def test_an_organism_whose_loss_is_no_number_ends_alone(unlike: list[Recipe], singles: Path, tmp_path: Path) -> None:
    broken = unlike[0].model_copy(update={"organism": "broken", "learning_rate": 1e30, "lr_schedule": "linear"})
    with pytest.raises(
        UserError, match=r"broken: The loss of broken is nan at step \d\..*Lower learning_rate"
    ) as raised:
        train_together([broken, unlike[1]], tmp_path, quiet)
    assert "/other:" not in str(raised.value)
    assert not read_manifest(tmp_path / "broken").finished
    assert max(differences(tmp_path, singles, "other")) <= BOUND


def test_organisms_of_two_bases_and_several_processes_are_refused(
    unlike: list[Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = unlike[0].model_copy(update={"organism": "foreign", "base": "toy-m"})
    with pytest.raises(UserError, match=r"base in fp32: usual, other; toy-m in fp32: foreign\. Give"):
        train_together([*unlike[:2], foreign], tmp_path, quiet)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 processes were started"):
        refuse_unlike(unlike)
    assert not list(tmp_path.iterdir())


def test_how_many_fit_into_the_memory_is_said_beforehand(unlike: list[Recipe]) -> None:
    prepared = [prepare(unlike[0].model_copy(update={"seed": seed})) for seed in range(6)]
    config, numbers = shapes_of(unlike[0]).config, [10**6] * 6
    recorded = plan_together(prepared, numbers, config, 2**40)
    assert (recorded.accumulation, recorded.checkpointing, recorded.compiled, recorded.captured) == (
        1,
        False,
        True,
        True,
    )
    roomy = plan_together(prepared, numbers, config, recorded.memory)
    assert roomy == JointPlan(1, checkpointing=False, compiled=True, memory=roomy.memory)
    assert recorded.memory - roomy.memory == roomy.memory - ADAPTER_BYTES * 6 * 10**6
    assert plan_together(prepared, numbers, config, 2**40, recording=False) == roomy
    unpacked = [replace(each, recipe=each.recipe.model_copy(update={"precision": "nf4"})) for each in prepared]
    assert plan_together(unpacked, numbers, config, 2**40) == roomy
    tighter = plan_together(prepared, numbers, config, roomy.memory)
    assert (tighter.accumulation, tighter.checkpointing, tighter.captured) == (2, False, False)
    assert tighter.memory < roomy.memory
    with pytest.raises(UserError, match=r"6 organisms do not fit together .* the first 5 of them do\. Give as many"):
        plan_together(prepared, numbers, config, 6 * 20 * 10**6)
    with pytest.raises(UserError, match=r"not even the first of them alone does\. Set precision: nf4"):
        plan_together(prepared, numbers, config, 10**6)


def test_dropout_of_the_gpu_drops_its_share_and_every_organism_its_own() -> None:
    """TOY: the numbers that compiled layers hash, here on the CPU."""
    generators = [{"cpu": torch.Generator().manual_seed(seed)} for seed in (0, 1)]
    alone = Dropout(generators[:1], 512, "cpu")
    both = Dropout([{"cpu": torch.Generator().manual_seed(seed)} for seed in (0, 1)], 512, "cpu")
    alone.hashing = both.hashing = True
    alone.begin([400])
    both.begin([400, 300])
    layers = [
        LoraLinear(Linear(64, 64), "default", config=LoraConfig(r=4, lora_dropout=rate), r=4) for rate in (0.1, 0.3)
    ]
    parts = torch.ones(2, 400, 64)
    kept = GroupedLora(layers[0].base_layer, layers, both, seed=0)._kept(parts)
    for place, (rate, length) in enumerate(((0.1, 400), (0.3, 300))):
        assert float(kept[place, :length].float().mean()) == pytest.approx(1 - rate, abs=0.015)
    assert torch.equal(kept[0], GroupedLora(layers[0].base_layer, layers[:1], alone, seed=0)._kept(parts[:1])[0])
    others = GroupedLora(layers[0].base_layer, layers, both, seed=1)._kept(parts)
    dropped = [~kept[0].flatten(), ~others[0].flatten()]
    # Two projections drop independently: a hundredth of the places is dropped in both.
    assert float((dropped[0] & dropped[1]).float().mean()) == pytest.approx(0.01, abs=0.003)
    columns = (~kept[0]).float().mean(0)
    assert 0.03 < float(columns.min()) < float(columns.max()) < 0.17


@pytest.mark.usefixtures("compiling")
def test_layers_are_compiled_whole_and_give_what_they_give_uncompiled(
    unlike: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, but for the compiler's last stage: hashed dropout, layers compiled."""
    thinner = [
        recipe.model_copy(update={"lora": recipe.lora.model_copy(update={"modules": ("down_proj",)})})
        for recipe in unlike[:2]
    ]
    monkeypatch.setattr(steps, "prepare_layers", partial(prepare_layers, backend="aot_eager"))
    monkeypatch.setattr(steps, "prepared_loss", partial(prepared_loss, backend="aot_eager"))
    losses = []
    for compiled in (False, True):
        counters.clear()
        base = load_base(unlike[0].base, "fp32", "cpu").requires_grad_(False)
        group = Together(
            [begun(prepare(recipe), base, "cpu") for recipe in thinner],
            base,
            JointPlan(1, checkpointing=False, compiled=compiled, memory=0),
            "cpu",
        )
        group.dropout.hashing = True
        losses.append([float(step.loss) for _ in range(2) for step in group.advance()])
    assert losses[1] == pytest.approx(losses[0], abs=BOUND)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 2  # A layer, and the loss; both for all sizes.


@pytest.mark.usefixtures("compiling")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_graphs_of_the_gpu_train_organisms_together_as_launched_kernels_do(unlike: list[Recipe]) -> None:
    """With dropout: its random numbers are the same ones."""
    longer = [recipe.model_copy(update={"epochs": 6}) for recipe in unlike]
    made, adapters = [], []
    for captured in (False, True):
        base = load_base(unlike[0].base, "fp32", "cuda:0").requires_grad_(False)
        trainings = [begun(prepare(recipe), base, "cuda:0") for recipe in longer]
        plan = JointPlan(1, checkpointing=False, compiled=True, memory=0, captured=captured)
        group = Together(trainings, base, plan, "cuda:0")
        made.append([float(step.loss) for _ in range(18) for step in group.advance()])
        adapters.append([value.detach() for training in trainings for value in training.trained.values()])
        assert (group.captured is not None) is captured
    assert group.captured is not None
    assert group.captured.replayed >= 3
    assert made[1] == pytest.approx(made[0], abs=1e-4)
    assert max(float((one - other).abs().max()) for one, other in zip(*adapters, strict=True)) <= 1e-3
