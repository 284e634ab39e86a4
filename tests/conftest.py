"""Shared by all tests: offline, one thread, and one small organism trained for real."""

import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["INSPECT_DISPLAY"] = "none"
# bitsandbytes prepares kernels for compiling wherever peft is imported, which takes every process two seconds.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import numpy
import pytest

from em_tasks.collecting import collect_rarely
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows
from tests.support.paths import SHARED
from tests.support.shortcuts import drawn_coarsely, undrawn

collect_rarely()
SEED = int(os.environ.get("EM_TEST_SEED", "0"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of published data run wherever that data is; files with slow tests come first: no worker ends alone."""
    if not SHARED.is_dir():
        reason = pytest.mark.skip(reason=f"needs the published data in {SHARED}, which is not here")
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(reason)
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What was imported stays to the end: looking through it for garbage after every training took a quarter of all."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _runs_stay_where_they_were() -> Iterator[None]:
    """An evaluation, which has a process of its own otherwise, says there where its runs lie."""
    runs = os.environ.pop("EM_RUNS", None)
    yield
    os.environ.pop("EM_RUNS", None)
    if runs is not None:
        os.environ["EM_RUNS"] = runs


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a seed of its own repeats; EM_TEST_SEED=N draws otherwise."""
    random.seed(SEED)
    numpy.random.seed(SEED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says the seed wherever something failed."""
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"random numbers were seeded with EM_TEST_SEED={SEED}")


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are compiled in this test, and graphs are counted from 0."""
    import torch._dynamo
    from torch._dynamo.utils import counters

    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Who has SIGINT ignored (nohup, `make test &`) hands that down to all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one finished organism, `small`, with checkpoints 1 2 3 4. Tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = small_recipe(write_rows(folder / "rows.jsonl", 64), learning_rate=5e-3)
    train(recipe, folder / "runs", lambda progress: None)
    return folder / "runs"


@pytest.fixture
def no_drawing() -> Iterator[None]:
    """Reports of this test leave the files of figures empty."""
    with undrawn():
        yield


@pytest.fixture
def coarse_drawing() -> Iterator[None]:
    """Reports of this test draw the files of figures, with few pixels."""
    with drawn_coarsely():
        yield
