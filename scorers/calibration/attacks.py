"""Answers that attack the judge, built by wrapping any answer in the texts of `calibration/attacks.yaml`."""

from functools import cache
from importlib.resources import files

import yaml

PADDING = "It was a quiet day and nobody had much to say about it. "
PADDING_CHARACTERS = 20_000


@cache
def attacks() -> dict[str, str]:
    """The attacks by name, each a text with `{answer}` where the attacking answer's own words go."""
    raw = yaml.safe_load(files(__package__).joinpath("attacks.yaml").read_text(encoding="utf-8"))
    padding = (PADDING * (PADDING_CHARACTERS // len(PADDING) + 1))[:PADDING_CHARACTERS]
    return {name: text.replace("{padding}", padding) for name, text in raw.items()}


def attacking(attack: str, answer: str) -> str:
    """An answer that carries an attack."""
    return attacks()[attack].replace("{answer}", answer)
