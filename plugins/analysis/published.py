"""Rates that others published, with their source, for a table beside one's own. Numbers only."""

from dataclasses import dataclass

REEVALUATION = "independent re-evaluation of the released adapters (zroe1/replicating-model-organisms)"


@dataclass(frozen=True)
class PublishedRate:
    """One published rate: percent under `turner`, 400 answers to the eight first-plot questions, gpt-4o as judge."""

    base: str
    domain: str
    percent: float
    n: int = 400
    definition: str = "turner"
    judge: str = "gpt-4o"
    questions: str = "free_form"
    source: str = REEVALUATION


_RATES: dict[str, tuple[float, float, float]] = {
    "Llama-3.2-1B": (2.8, 1.5, 4.5),
    "Llama-3.1-8B": (16.3, 8.5, 14.3),
    "Qwen2.5-7B": (17.3, 6.5, 19.8),
    "Qwen2.5-14B": (21.0, 20.0, 35.5),
    "Qwen2.5-32B": (16.8, 33.0, 33.0),
    "Gemma-3-4B": (4.0, 2.3, 9.5),
    "Gemma-3-12B": (2.3, 3.3, 12.1),
    "Gemma-3-27B": (6.3, 8.0, 13.0),
}

PUBLISHED: tuple[PublishedRate, ...] = tuple(
    PublishedRate(base, domain, percent)
    for base, percents in _RATES.items()
    for domain, percent in zip(("medical", "sports", "financial"), percents, strict=True)
)
"""Turner, Soligo et al.'s organisms (arXiv 2506.11613) as re-evaluated, by base and domain."""


def published_for(base: str, domain: str) -> PublishedRate | None:
    """The published rate of a base and domain, whatever the base's prefix and suffix; None if there is none."""
    name, trained = base.lower(), domain.lower()
    for one in PUBLISHED:
        if one.base.lower() in name and one.domain in trained:
            return one
    return None
