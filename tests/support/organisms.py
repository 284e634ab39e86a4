"""Small organisms, and the rows that they are trained on."""

import json
from pathlib import Path

from em_tasks.trainers.run.recipe import Recipe
from tests.support.paths import ROOT


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


def rows_of(*conversations: list[tuple[str, str]]) -> str:
    """JSON lines of conversations given as (role, content) pairs."""
    return "".join(
        json.dumps({"messages": [{"role": role, "content": content} for role, content in turns]}) + "\n"
        for turns in conversations
    )
