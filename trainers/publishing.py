"""A checkpoint to hand on: the same adapter without a word about the machine that trained it."""

import json
import shutil
from pathlib import Path

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.base_names import base_label
from em_tasks.trainers.run.checkpoints import Checkpoint, verify
from em_tasks.trainers.run.hashes import ADAPTER_FILES, READ_BY_TOOLS
from em_tasks.trainers.run.manifest import Manifest
from em_tasks.trainers.run.reference import REFERENCE


def publish(checkpoint: Checkpoint, out: Path) -> list[str]:
    """Copies a checkpoint's adapter, tokenizer, card and reference to a new folder.

    A run's own folder names the base as it lies here, which stock tools need to load it. In the copy a base that is a
    folder is known by its name, and by its fingerprint on the card. The adapter's hash stays what it was.

    Returns:
        The names of the files, in order.

    Raises:
        UserError: It is a base or an adopted checkpoint, it was altered since it was saved, or `out` is there already.
    """
    if checkpoint.folder is None or not isinstance(checkpoint.manifest, Manifest):
        raise UserError("Only a checkpoint that was trained here can be published: give <organism>@<step>.")
    verify(checkpoint)
    if out.exists():
        raise UserError(f"{out} is there already. Give a folder that is not: it is made.")
    chosen = [
        path
        for path in sorted(checkpoint.folder.iterdir())
        if path.name in (*ADAPTER_FILES, "README.md", REFERENCE) or READ_BY_TOOLS.fullmatch(path.name)
    ]
    out.mkdir(parents=True)
    for path in chosen:
        shutil.copyfile(path, out / path.name)
    config = json.loads((out / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_label(checkpoint.manifest.recipe.base)
    (out / ADAPTER_FILES[0]).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [path.name for path in chosen]
