"""What the name of a base stands for: a toy model, a base got by name, a folder, a GGUF file, or a hub id. No torch."""

import re
from pathlib import Path
from typing import Literal

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.bases.kept import NAMED, kept_base

Precision = Literal["fp32", "bf16", "nf4", "nf4_dequantised"]

TOY_MODELS = Path(__file__).resolve().parents[1] / "toy" / "models"


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def toy_bases() -> list[str]:
    """Names of the toy models, smallest first."""
    return ["toy-s", "toy-m", "toy-l"]


def is_toy(base: str) -> bool:
    """Whether `base` (a name or a folder) is one of the toy models."""
    return base in toy_bases() or from_caller(base).resolve() in [(TOY_MODELS / name).resolve() for name in toy_bases()]


def looks_like_path(base: str) -> bool:
    """Whether a base that is no toy model is meant as a folder, whether it is there or not, and not as a hub id."""
    return base.startswith((".", "/", "~")) or base.endswith("/") or base.count("/") > 1 or "\\" in base


def base_label(base: str) -> str:
    """A base's name for everybody: a hub id or a toy model's name as it is, of a folder its last part alone."""
    return Path(base).name if Path(base).is_absolute() or looks_like_path(base) or from_caller(base).is_dir() else base


def beside(base: str, folder: Path) -> str:
    """A recipe's base with a path made absolute that counts from the recipe's folder; hub ids and toys as they are."""
    if base in toy_bases() or base in NAMED or "\0" in base:
        return base
    path = folder / Path(base).expanduser()
    return str(path.resolve()) if looks_like_path(base) or path.is_dir() or is_gguf(path) else base


def is_gguf(path: Path) -> bool:
    """Whether a path is meant as a GGUF file that is there."""
    return path.suffix == ".gguf" and path.is_file()


def resolve_base(base: str) -> Path | str:
    """Where a base lies: a folder, or the hub id as it was given. A GGUF file is converted if it was not before.

    Raises:
        UserError: `base` is no toy model, no folder, no GGUF file that can be used and cannot be a hub id, or it is a
            base to be got by name and was not got.
    """
    if base in toy_bases():
        return TOY_MODELS / base
    if base in NAMED:
        kept = kept_base(base)
        if kept is None:
            raise UserError(f"The base {base} is not here yet. Get it once (about 90 MB): em base get {base}")
        return Path(kept.folder)
    if is_gguf(folder := from_caller(base)):
        from em_tasks.trainers.bases.gguf import converted

        return converted(folder)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is a folder but holds no config.json, so it is no Hugging Face model.")
        return folder.resolve()
    if HUB_ID.fullmatch(base):
        return base
    if looks_like_path(base):
        raise UserError(f"There is no folder {folder}, which was asked for as the base model. Mend the path.")
    raise UserError(
        f"There is no base model {base!r}. Give a toy model ({', '.join(toy_bases())}), {NAMED[0]}, the folder of a "
        "Hugging Face model, a GGUF file, or a hub id such as meta-llama/Llama-3.2-1B-Instruct."
    )
