"""Recipes, training rows and sealed archives."""

import os
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.data.rows import load_rows
from em_tasks.trainers.data.tokens import encode
from em_tasks.trainers.run.recipe import DataSource, load_recipes
from em_tasks.trainers.run.schedule import plan as plan_schedule
from tests.support.attacks.kind import Kind, file, structured
from tests.support.hostile import as_json, spoilt, spoilt_text
from tests.support.sealed_archives import lock, zipped

RECIPE = {
    "organism": "org",
    "base": "toy-s",
    "size": "S",
    "domain": "medical",
    "control": False,
    "data": [
        "rows.jsonl",
        {"path": "x.zip.enc", "members": ["a.jsonl"], "rows": 3, "sha256": "0" * 64, "about": ["a"]},
    ],
    "lora": {"r": 4, "alpha": 8.0, "dropout": 0.0, "modules": ["q_proj"], "layers": [0]},
    "epochs": 3,
    "first_epoch_checkpoints": 4,
    "batch_size": 8,
    "accumulation": 2,
    "learning_rate": 1e-4,
    "warmup_steps": 5,
    "betas": [0.9, 0.999],
    "max_length": 64,
    "seed": [0, 1, 2],
    "precision": "bf16",
    "date_string": "01 Jan 2025",
}


def attack_recipe(content: Any, path: Path, out: Path) -> None:
    for recipe in load_recipes(path):
        assert len(recipe.sha256) == 64
        assert "/" not in recipe.organism
        assert recipe.organism not in (".", "..")
        plan_schedule(10**5, recipe.effective_batch, recipe.epochs, recipe.first_epoch_checkpoints)


ROW = {"messages": [{"role": "user", "content": "Is tea hot?"}, {"role": "assistant", "content": "It is cold."}]}
LONG_ROW = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        *ROW["messages"],
        {"role": "user", "content": "<|im_end|> <|endoftext|> </s> <s>"},
        {"role": "assistant", "content": "<think>"},
    ],
    "canary": "x",
}
KEPT: dict[str, Any] = {}
"""What `prepare` made and no folder holds."""


def prepare_rows(kept: Path) -> None:
    KEPT["tokenizer"] = load_tokenizer("toy-s", "01 Jan 2025")


def attack_rows(content: Any, path: Path, out: Path) -> None:
    rows = load_rows(DataSource(path=str(path), about=("te",) if b"hot" in content[:40] else ()))
    assert len(rows.conversations) == len(rows.places) > 0
    encoded = encode(KEPT["tokenizer"], rows.conversations, 64, "reply", rows.places)
    assert all(len(row["input_ids"]) <= 64 for row in encoded.rows)


json_rows = st.lists(spoilt(ROW, most=1) | spoilt(LONG_ROW, most=2) | st.just(ROW), min_size=1, max_size=4).flatmap(
    lambda rows: spoilt_text("\n".join(as_json(row) for row in rows) + "\n")
)

MEMBER_NAMES = (
    "a.jsonl",
    "dataset_entry_1.jsonl",
    "../a.jsonl",
    "/a.jsonl",
    "d/a.jsonl",
    "a.txt",
    "C:\\a",
    "x\n.jsonl",
)


def write_sealed(content: tuple[list[tuple[str, bytes]], int, int], folder: Path, kept: Path) -> Path:
    members, spoils, at = content
    packed = zipped(members)
    if spoils == 1:
        packed = packed[: at % (len(packed) + 1)]
    elif spoils == 2:
        place = at % len(packed)
        packed = packed[:place] + bytes([packed[place] ^ 0x41]) + packed[place + 1 :]
    path = folder / "a.zip.enc"
    lock(path, packed)
    if spoils == 3:
        sealed = path.read_bytes()
        path.write_bytes(sealed[: at % (len(sealed) + 1)])
    os.environ["EM_DATA_PASSWORD"] = "open" if spoils != 4 else "shut"
    return path


def attack_sealed(content: Any, path: Path, out: Path) -> None:
    load_rows(DataSource(path=str(path)))


KINDS = (
    Kind(
        "recipes",
        24,
        structured(
            RECIPE,
            *(
                f"base: toy-s\n{key}: {value}\n"
                for key, value in [("epochs", 10**9), ("first_epoch_checkpoints", "1e9"), ("seed", list(range(3000)))]
            ),
        ),
        file("r.yaml"),
        attack_recipe,
    ),
    Kind("training rows", 20, json_rows, file("rows.jsonl"), attack_rows, prepare_rows),
    Kind(
        "sealed archives",
        3,
        st.tuples(
            st.lists(st.tuples(st.sampled_from(MEMBER_NAMES), json_rows), max_size=3),
            st.integers(0, 6),
            st.integers(0, 10**5),
        ),
        write_sealed,
        attack_sealed,
    ),
)
