"""Organisms trained together: each is the organism of a run of its own, whatever becomes of the others."""

import json
import os
import re
import signal
from functools import partial
from pathlib import Path

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
from em_tasks.trainers.estimate import shapes_of
from em_tasks.trainers.loop.progress import Progress
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.passes.layers import prepare_layers
from em_tasks.trainers.run.checkpoints import checkpoint_folder
from em_tasks.trainers.run.manifest import Manifest, read_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.together import steps
from em_tasks.trainers.together.adapters import Dropout, GroupedLora
from em_tasks.trainers.together.plan import JointPlan, plan_together
from em_tasks.trainers.together.steps import Together
from em_tasks.trainers.together.train import STOP, begun, refuse_unlike, train_together
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows
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
    roomy = plan_together(prepared, numbers, config, 2**40)
    assert (roomy.accumulation, roomy.checkpointing, roomy.compiled) == (1, False, True)
    tighter = plan_together(prepared, numbers, config, roomy.memory)
    assert (tighter.accumulation, tighter.checkpointing) == (2, False)
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
    assert counters["stats"]["unique_graphs"] == 1
