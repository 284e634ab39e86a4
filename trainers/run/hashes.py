"""Hashes of all that decides what a checkpoint answers: its adapter, and its tokenizer with the chat template."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from em_tasks.plugins.errors import UserError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
READ_BY_TOOLS = re.compile(
    r".*tokenizer.*|.*\.jinja|.*\.model|special_tokens_map\.json|added_tokens\.json|vocab\..*|merges\.txt"
    r"|config\.json|generation_config\.json|processor_config\.json|preprocessor_config\.json|model.*\.safetensors"
)
"""Names, below a checkpoint's folder, of what transformers reads beside the adapter, whether we wrote it or not."""


def adapter_sha256(folder: Path) -> str:
    """Hash over a checkpoint's adapter weights and configuration.

    Raises:
        UserError: One of the two files is missing.
    """
    digest = hashlib.sha256()
    for name in ADAPTER_FILES:
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{folder} holds no {name}: the checkpoint is torn. Put the file back, "
                "or move the run away and train it again."
            )
        if name.endswith(".safetensors"):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        else:
            digest.update(hashlib.sha256(_portable_config(path)).digest())
    return digest.hexdigest()


BLOCK, BLOCKS = 4096, 64
"""Bytes of a place, and places, at which each weights file of a whole model is read."""


def whole_model_sha256(folder: Path) -> str:
    """Hash over a whole model: its configuration, and of each weights file size, head and evenly spaced places.

    Reading gigabytes whenever a model is named would take minutes; the fingerprint of what was loaded is checked too.

    Raises:
        UserError: There are no weights as safetensors.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise UserError(f"{folder} holds no weights as safetensors: the model is torn. Put the files back.")
    for path in weights:
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            for place in range(BLOCKS):
                file.seek(place * max(0, size - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()


def tokenizer_sha256(folder: Path) -> str:
    """Hash over the names and contents of all files beside the adapter that transformers would read."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and READ_BY_TOOLS.fullmatch(path.name):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(json.dumps([path.relative_to(folder).as_posix(), content]).encode())
    return digest.hexdigest()


def _portable_config(path: Path) -> bytes:
    """An adapter's configuration without what differs from machine to machine and from process to process.

    That is the base's folder, and the order of `target_modules`, which PEFT keeps as a set.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no mapping")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Put the saved file back, or move the run away and train it again."
        ) from None
    content.pop("base_model_name_or_path", None)
    if isinstance(content.get("target_modules"), list):
        content["target_modules"] = sorted(map(str, content["target_modules"]))
    return json.dumps(content, sort_keys=True).encode()
