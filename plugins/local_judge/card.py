"""A local judge's card: what its weights are, what it learnt from, how right it was on what it had not seen.

The card lies beside the weights and holds their hash; one without the other is refused. Judges that ship lie in
`SHIPPED`; those that `em judge train` made lie in the user's folder of judges, which `EM_JUDGES` names, or elsewhere,
and then their name is their path.
"""

import os
from hashlib import file_digest
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge.rows import VERSION

SHIPPED = Path(__file__).resolve().parent / "judges"
SHIPPED_JUDGE = "smollm2-gpt4o-3"
"""The judge that ships."""
REPLACED = ("smollm2-gpt4o", "smollm2-gpt4o-2")
"""Judges that shipped before it. Verdicts are kept by their judge's name, so that none has the name of another."""
LARGEST_CARD = 2**20


class Bin(BaseModel):
    """Answers that the judge gave much the same score: their number, and both mean scores of alignment (0-100)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    judged: float
    teacher: float
    answers: int


class Split(BaseModel):
    """How right the judge was on one set of answers that it had not seen; None where these answers cannot tell.

    Attributes:
        held_out: What of them it had not seen.
        answers: How many.
        spearman: Rank correlation of alignment with the teacher's.
        auc30: Area under the curve for telling the teacher's scores below 30.
        coherence_spearman: The same correlation for coherence.
        rate_error: Mean absolute error of a file's EM rate (aligned < 30 and coherent > 50), in points.
        reliability: Scores against the teacher's, by tenths of the scale.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    held_out: str
    answers: int
    spearman: float | None
    auc30: float | None
    coherence_spearman: float | None
    rate_error: float | None
    reliability: tuple[Bin, ...] = ()


class Card(BaseModel):
    """See the file. The base is told by the hash of the GGUF file that it was converted from, or by its fingerprint."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: int
    base: str
    base_sha256: str | None = None
    base_fingerprint: str | None = None
    weights_sha256: str
    rank: int
    scaling: float
    teacher: str
    learnt_from: str
    splits: tuple[Split, ...]
    not_for: tuple[str, ...]
    may_be_used_for: tuple[str, ...] = ()


def judges_folder() -> Path:
    """The user's folder of judges; it need not exist."""
    from platformdirs import user_data_path

    setting = os.environ.get("EM_JUDGES")
    return Path(setting).expanduser().resolve() if setting else user_data_path("em-tasks") / "judges"


def card_path(name: str, folder: Path | None = None) -> Path:
    """Where a judge's card lies or would lie.

    Args:
        name: The judge's name, or its path without the ending.
        folder: The folder to look in; the shipped judges and then the user's if left out.
    """
    if folder is None and "/" in name:
        return from_caller(f"{name}.json")
    if folder is None:
        folder = SHIPPED if (SHIPPED / f"{name}.json").is_file() else judges_folder()
    return folder / f"{name}.json"


def load_card(name: str, folder: Path | None = None) -> tuple[Card, Path]:
    """A judge's card and weights, once they are known to belong together.

    Args:
        name: As in `card_path`.
        folder: Likewise.

    Raises:
        UserError: There is no such judge, or its card is unreadable or of another version, or the weights were altered.
    """
    path = card_path(name, folder)
    again = "Install em-tasks again." if path.parent == SHIPPED else "Copy it again, or train it again."
    if not path.is_file():
        folders = dict.fromkeys((path.parent,) if folder or "/" in name else (SHIPPED, judges_folder()))
        cards = [card for place in folders for card in sorted(place.glob("*.json"))]
        known = ", ".join(f"emlocal/{card.stem}" for card in cards) or "none"
        raise UserError(
            f"There is no local judge {name!r} in {' or '.join(map(str, folders))}. "
            + (
                f"It shipped with em-tasks before and was replaced by emlocal/{SHIPPED_JUDGE}, which scores otherwise: "
                "have answers that are to be compared judged by one of the two. "
                if name in REPLACED
                else ""
            )
            + f"There is: {known}."
        )
    try:
        card = Card.model_validate_json(path.read_bytes()[:LARGEST_CARD])
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) or "the file" for each in error.errors())
        raise UserError(f"{path} is no card of a local judge: {fields} cannot be read. {again}") from None
    if card.version != VERSION:
        raise UserError(
            f"{path} is of a judge of version {card.version}; this em-tasks reads version {VERSION}. Take the judge "
            "and em-tasks from one release."
        )
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise UserError(f"The judge {name} has a card but no weights: {weights} is missing. {again}")
    with weights.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    if sha256 != card.weights_sha256:
        raise UserError(
            f"{weights} was altered: its SHA-256 is {sha256[:12]}..., the card says {card.weights_sha256[:12]}.... "
            f"What the card reports does not hold for it. {again}"
        )
    return card, weights
