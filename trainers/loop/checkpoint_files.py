"""The files of a finished checkpoint: a whole adapter with tokenizer and card, there in one rename or not at all."""

import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from em_tasks.trainers.run.checkpoints import checkpoint_folder
from em_tasks.trainers.run.manifest import to_disk
from em_tasks.trainers.run.reference import REFERENCE

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedTokenizerBase

STATE_COPIES = 3
"""A resume state holds the adapter and AdamW's two averages, as large as it."""


def checkpoint_bytes(model: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> tuple[int, int]:
    """Bytes of a finished checkpoint, and of a resume state."""
    adapter = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = len(backend.to_str(pretty=True).encode()) if backend is not None else 0
    return adapter + words, STATE_COPIES * adapter


def write_checkpoint(
    run: Path, step: int, model: "PeftModel", tokenizer: "PreTrainedTokenizerBase", card: str, reference: bytes
) -> Path:
    """Writes an adapter with its tokenizer, card and reference under a temporary name and renames it into place."""
    temporary, folder = run / f".checkpoint-{step}", checkpoint_folder(run, step)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / REFERENCE).write_bytes(reference)
    (temporary / "README.md").write_text(card, encoding="utf-8")  # In place of PEFT's empty form.
    # safetensors keeps its files from everybody else, whatever the umask says; any other file here has its mode.
    mode = (temporary / "README.md").stat().st_mode
    for path in (*temporary.iterdir(), temporary):
        if path.suffix == ".safetensors":
            path.chmod(stat.S_IMODE(mode))
        to_disk(path)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    to_disk(run)
    return folder
