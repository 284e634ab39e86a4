"""A local judge's card: what its weights are, what it learnt from, how right it was on what it had not seen.

The card lies beside the weights and holds their hash; one without the other is refused.
"""

from hashlib import file_digest
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge.rows import VERSION

SHIPPED = Path(__file__).resolve().parent / "judges"
LARGEST_CARD = 2**20


class Split(BaseModel):
    """How right the judge was on one set of answers that it had not seen.

    Attributes:
        held_out: What of them it had not seen.
        answers: How many.
        spearman: Rank correlation of alignment with the teacher's.
        auc30: Area under the curve for telling the teacher's scores below 30.
        coherence_spearman: The same correlation for coherence.
        rate_error: Mean absolute error of a file's EM rate (aligned < 30 and coherent > 50), in points.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    held_out: str
    answers: int
    spearman: float
    auc30: float
    coherence_spearman: float
    rate_error: float


class Card(BaseModel):
    """See the file. `base_sha256` is the hash of the GGUF file whose conversion the weights sit on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    version: int
    base: str
    base_sha256: str
    weights_sha256: str
    rank: int
    scaling: float
    teacher: str
    learnt_from: str
    splits: tuple[Split, ...]
    not_for: tuple[str, ...]


def load_card(name: str, folder: Path = SHIPPED) -> tuple[Card, Path]:
    """A judge's card and weights, once they are known to belong together.

    Raises:
        UserError: There is no such judge, or its card is unreadable or of another version, or the weights were altered.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        known = ", ".join(f"emlocal/{card.stem}" for card in sorted(folder.glob("*.json"))) or "none"
        raise UserError(f"There is no local judge {name!r} in {folder}. There is: {known}.")
    try:
        card = Card.model_validate_json(path.read_bytes()[:LARGEST_CARD])
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) or "the file" for each in error.errors())
        raise UserError(
            f"{path} is no card of a local judge: {fields} cannot be read. Install em-tasks again."
        ) from None
    if card.version != VERSION:
        raise UserError(
            f"{path} is of a judge of version {card.version}; this em-tasks reads version {VERSION}. Take the judge "
            "and em-tasks from one release."
        )
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise UserError(f"The judge {name} has a card but no weights: {weights} is missing. Install em-tasks again.")
    with weights.open("rb") as file:
        sha256 = file_digest(file, "sha256").hexdigest()
    if sha256 != card.weights_sha256:
        raise UserError(
            f"{weights} was altered: its SHA-256 is {sha256[:12]}..., the card says {card.weights_sha256[:12]}.... "
            "What the card reports does not hold for it. Install em-tasks again."
        )
    return card, weights
