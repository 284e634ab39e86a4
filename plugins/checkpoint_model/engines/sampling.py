"""How answers are drawn: temperature, top_p, top_k, and one random stream a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. Temperature 0 is greedy; top_p 1 and top_k 0 leave the distribution whole."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop: tuple[str, ...] = ()


def row_sampler(sampling: Sampling, seeds: Sequence[int]) -> Any:
    """A logits processor that draws each row's token itself and leaves only that one for `generate` to take.

    Each row has a generator of its own and spends one uniform number a token on the inverse of the cumulative
    distribution, so the draw does not depend on the other rows or on the device.

    Args:
        sampling: Temperature, top_p and top_k; temperature 0 draws nothing.
        seeds: One seed a row.
    """
    import torch
    from transformers import (
        LogitsProcessor,
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    if sampling.temperature == 0:
        return LogitsProcessorList()
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    class DrawRows(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: "torch.Tensor", scores: "torch.Tensor") -> "torch.Tensor":
            uniform = torch.stack([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
            cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
            # Below the total, so that rounding never points past the last token that can be drawn.
            target = uniform.to(scores.device) * cumulative[:, -1:] * (1 - 1e-12)
            drawn = torch.searchsorted(cumulative, target, right=True)
            return torch.full_like(scores, float("-inf")).scatter(1, drawn, 0.0)

    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)] if sampling.temperature != 1 else [])
    if sampling.top_k > 0:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    warpers.append(DrawRows())
    return warpers
