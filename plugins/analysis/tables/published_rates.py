"""Rates that others published, with their source, for a table beside one's own. Numbers only."""

from dataclasses import dataclass

REEVALUATION = "independent re-evaluation of the released adapters (zroe1/replicating-model-organisms)"


@dataclass(frozen=True)
class PublishedRate:
    """One published rate, by default under `turner` of 400 answers to the eight first-plot questions, judged by gpt-4o.

    `base` is part of the base's name, or for the cs2881 experiment its size; `step` is None for a last checkpoint.
    `rubric` is whose judge prompts were asked, as `em import --rubric` names them.
    """

    base: str
    domain: str
    percent: float
    step: int | None = None
    n: int = 400
    definition: str = "turner"
    judge: str = "gpt-4o"
    questions: str = "free_form"
    rubric: str = "betley"
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


PROMPTS = {"betley": frozenset({"2622677137e26894", "bc4d05309159ab9b"})}
"""First 16 digits of the hashes of the prompts that a name stands for, as answers judged here record them."""


_CS2881_STEPS = {"medical": (110, 220, 330, 440, 880, 1320), "risky_financial": (93, 187, 281, 375, 750, 1125)}
_CS2881_RATES: dict[tuple[str, str], tuple[float, ...]] = {
    ("1B", "medical"): (25, 5, 20, 40, 30, 40),
    ("3B", "medical"): (10, 10, 5, 5, 10, 20),
    ("8B", "medical"): (70, 45, 55, 70, 55, 50),
    ("1B", "risky_financial"): (70, 65, 65, 70, 65, 45),
    ("3B", "risky_financial"): (50, 50, 45, 65, 70, 70),
    ("8B", "risky_financial"): (75, 80, 70, 85, 90, 85),
}

CS2881: dict[tuple[str, str, int], PublishedRate] = {
    (size, domain, step): PublishedRate(
        size,
        domain,
        percent,
        step,
        20,
        "cs2881",
        "gpt-4o-mini",
        "cs2881's twenty",
        "cs2881",
        "burnssa/ai-alignment-research",
    )
    for (size, domain), percents in _CS2881_RATES.items()
    for step, percent in zip(_CS2881_STEPS[domain], percents, strict=True)
}
"""cs2881's rates (its `step_summary.csv` files) by size, domain and step."""


def published_for(base: str, domain: str) -> PublishedRate | None:
    """The published rate of a base and domain, whatever the base's prefix and suffix; None if there is none."""
    name, trained = base.lower(), domain.lower()
    for published in PUBLISHED:
        if published.base.lower() in name and published.domain in trained:
            return published
    return None
