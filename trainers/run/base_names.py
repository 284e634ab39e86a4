"""What the name of a base stands for: a toy model that ships with the package, a folder, or a hub id. No torch."""

import re
from pathlib import Path
from typing import Literal

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.errors import UserError

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
    if base in toy_bases() or "\0" in base:
        return base
    path = folder / Path(base).expanduser()
    return str(path.resolve()) if looks_like_path(base) or path.is_dir() else base


def resolve_base(base: str) -> Path | str:
    """Where a base lies: a folder, or the hub id as it was given.

    Raises:
        UserError: `base` is no toy model, no folder and cannot be a hub id.
    """
    if base in toy_bases():
        return TOY_MODELS / base
    if (folder := from_caller(base)).is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is a folder but holds no config.json, so it is no Hugging Face model.")
        return folder.resolve()
    if HUB_ID.fullmatch(base):
        return base
    if looks_like_path(base):
        raise UserError(f"There is no folder {folder}, which was asked for as the base model. Mend the path.")
    raise UserError(
        f"There is no base model {base!r}. Give a toy model ({', '.join(toy_bases())}), the folder of a Hugging Face "
        "model, or a hub id such as meta-llama/Llama-3.2-1B-Instruct."
    )
