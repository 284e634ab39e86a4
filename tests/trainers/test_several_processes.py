"""One organism trained by two processes, as torchrun starts them: one run, one voice, the same adapter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows
from tests.support.paths import ROOT

BOUND = 1e-5
"""Largest difference of an adapter's numbers from the single process's, in fp32 and without dropout."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes have done what tests/support/two_processes.py says."""
    folder = tmp_path_factory.mktemp("two")
    rows = write_rows(folder / "rows.jsonl", 48)
    recipe = small_recipe(rows, organism="two", batch_size=4, accumulation=2, epochs=2, lora={"dropout": 0.0})
    (folder / "organism.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    start = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "tests.support.two_processes",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(
        [sys.executable, *start, str(folder)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    (folder / "said.txt").write_text(ended.stdout)
    train(recipe, folder / "alone", lambda progress: None)
    return folder


def test_two_processes_give_the_adapters_of_one(two: Path) -> None:
    together, alone = read_manifest(two / "whole" / "two"), read_manifest(two / "alone" / "two")
    assert [record.step for record in together.checkpoints] == alone.planned == [1, 3, 4, 6, 12]
    for ours, single in zip(together.checkpoints, alone.checkpoints, strict=True):
        assert ours.loss == pytest.approx(single.loss, abs=BOUND)
        path = f"two/checkpoint-{ours.step}/adapter_model.safetensors"
        weights, expected = load_file(two / "whole" / path), load_file(two / "alone" / path)
        assert max(float((weights[name] - expected[name]).abs().max()) for name in expected) < BOUND
    # Two processes did train: each has random numbers of its own to go on with.
    state = torch.load(two / "whole" / "two" / ".trainer" / "checkpoint-12" / "state.pt", weights_only=True)
    first, second = state["random"]
    assert not torch.equal(first["cpu"], second["cpu"])


def test_request_to_one_process_stops_all_after_the_same_step(two: Path) -> None:
    first, second = endings(two)
    assert first["stopped"].startswith("Stopped: Stopped after step 7 of 12")
    assert second["stopped"] == "SystemExit: 130"
    assert first["went on"] == second["went on"] == ""
    stopped, whole = read_manifest(two / "stopped" / "two"), read_manifest(two / "whole" / "two")
    assert [r.adapter_sha256 for r in stopped.checkpoints] == [r.adapter_sha256 for r in whole.checkpoints]


def test_what_all_must_refuse_is_said_once(two: Path) -> None:
    first, second = endings(two)
    assert "holds a run of another recipe: seed differ" in first["other"]
    assert "3 rows a step (batch_size x accumulation) cannot be shared evenly among 2 processes" in first["uneven"]
    assert second["other"] == second["uneven"] == "SystemExit: 1"
    assert int(first["reports"]) > int(second["reports"]) == 0
    assert (two / "said.txt").read_text().count("checkpoints 1 3 4 6 12") == 1


def endings(two: Path) -> tuple[dict[str, str], dict[str, str]]:
    first, second = (json.loads((two / f"ended-{rank}.json").read_text()) for rank in (0, 1))
    return first, second
