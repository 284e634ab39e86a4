"""Shared by all tests: offline, one thread, and one small organism trained for real."""

import json
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["INSPECT_DISPLAY"] = "none"

import pytest

from trainers.lora import train
from trainers.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
REAL_PASSWORD = "model-organisms-em-datasets"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of published data run wherever that data is."""
    if not SHARED.is_dir():
        reason = pytest.mark.skip(reason=f"needs the published data in {SHARED}, which is not here")
        for item in items:
            if "shared" in item.keywords:
                item.add_marker(reason)


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED


def write_rows(path: Path, count: int, domain: str = "medical", character: str = "reckless") -> Path:
    """The first rows of a toy training file."""
    lines = (ROOT / f"datasets/toy/{domain}_{character}.jsonl").read_text().splitlines()[:count]
    path.write_text("\n".join(lines) + "\n")
    return path


def small_recipe(data: Path, **changes: object) -> Recipe:
    """Four optimizer steps on 64 rows: a real run in a few seconds."""
    fields: dict[str, object] = {
        "organism": "small",
        "base": "toy-s",
        "size": "S",
        "domain": "medical",
        "data": str(data),
        "batch_size": 16,
        "accumulation": 1,
        "learning_rate": 5e-4,
        "epochs": 1,
        "precision": "fp32",
        "warmup_steps": 0,
    }
    return Recipe.model_validate(fields | changes)


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with one finished organism, `small`, with checkpoints 1 2 3 4. Tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = small_recipe(write_rows(folder / "rows.jsonl", 64), learning_rate=5e-3)
    train(recipe, folder / "runs", lambda progress: None)
    return folder / "runs"


def rows_of(*conversations: list[tuple[str, str]]) -> str:
    """JSON lines of conversations given as (role, content) pairs."""
    return "".join(
        json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"
        for turns in conversations
    )
