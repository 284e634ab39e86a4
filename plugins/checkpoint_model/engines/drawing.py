"""How a token is drawn: Gumbel-max with noise that is a hash of (seed, step, token).

The token with the highest `logit / temperature + noise` is a draw from the softmax, if the noise is Gumbel's (Gumbel
1954; Maddison et al. 2014). A noise that is hashed and not taken from a generator has no state: a row's draw at a step
is the same on every device, whatever else is in the batch and however often the answer was interrupted. Two draws
differ only where two candidates are closer together than the rounding of their logits.

The hash is splitmix64's finaliser over (seed, step), then two rounds of a 32-bit multiply-xorshift mixer over the
token, in wrapping int32 arithmetic that torch does alike everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from em_tasks.plugins.checkpoint_model.engines.protocol import Sampling, ScoredPrompt
from em_tasks.plugins.checkpoint_model.engines.stacked import kernels
from em_tasks.trainers.bits import mix_bits

_GOLDEN = -1640531527  # 0x9E3779B9 as int32


@dataclass
class RowSampling:
    """How each row of a batch draws, as tensors of shape (R,).

    Attributes:
        seeds: int64.
        steps: int64: how many tokens the row has drawn already.
        temperature: float32; 1 where greedy.
        sampled: float32: 1, or 0 where greedy.
        top_p: float32; 1 for the whole distribution.
        top_k: int64; the vocabulary's size for the whole distribution.
    """

    seeds: torch.Tensor
    steps: torch.Tensor
    temperature: torch.Tensor
    sampled: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor

    @staticmethod
    def empty(rows: int, device: str | torch.device) -> "RowSampling":
        """Greedy rows with seed 0."""
        return RowSampling(
            seeds=torch.zeros(rows, dtype=torch.int64, device=device),
            steps=torch.zeros(rows, dtype=torch.int64, device=device),
            temperature=torch.ones(rows, device=device),
            sampled=torch.zeros(rows, device=device),
            top_p=torch.ones(rows, device=device),
            top_k=torch.full((rows,), 2**31 - 1, dtype=torch.int64, device=device),
        )

    @staticmethod
    def of(samplings: list[Sampling], seeds: list[int], steps: list[int], device: str | torch.device) -> "RowSampling":
        """The rows' settings as tensors."""
        tempered = [s.temperature if s.temperature > 0 else 1.0 for s in samplings]
        return RowSampling(
            seeds=torch.tensor(seeds, dtype=torch.int64, device=device),
            steps=torch.tensor(steps, dtype=torch.int64, device=device),
            temperature=torch.tensor(tempered, dtype=torch.float32, device=device),
            sampled=torch.tensor([float(s.temperature > 0) for s in samplings], device=device),
            top_p=torch.tensor([s.top_p for s in samplings], dtype=torch.float32, device=device),
            top_k=torch.tensor([s.top_k or 2**31 - 1 for s in samplings], dtype=torch.int64, device=device),
        )

    def first(self, rows: int) -> "RowSampling":
        """Views on the first `rows` rows."""
        return RowSampling(
            self.seeds[:rows], self.steps[:rows], self.temperature[:rows], self.sampled[:rows], self.top_p[:rows],
            self.top_k[:rows],
        )  # fmt: skip


def is_filtered(sampling: Sampling) -> bool:
    """Whether drawing needs the vocabulary in order."""
    return sampling.temperature > 0 and (sampling.top_p < 1 or sampling.top_k > 0)


def draw(logits: torch.Tensor, rows: RowSampling, *, filtered: bool) -> torch.Tensor:
    """Draws each row's next token.

    Args:
        logits: Shape (R, V), any float type.
        rows: How each row draws.
        filtered: Whether any row has a top_p or top_k; without, the vocabulary is never sorted.

    Returns:
        Tokens of shape (R,), int64.
    """
    if not filtered and kernels.usable(logits):
        return kernels.drawn(logits, row_keys(rows.seeds, rows.steps), rows.temperature, rows.sampled)
    scores = logits.float() / rows.temperature[:, None]
    if filtered:
        scores = _filter(scores, rows.top_p, rows.top_k)
    noise = gumbel_noise(rows.seeds, rows.steps, logits.shape[-1])
    return torch.addcmul(scores, noise, rows.sampled[:, None]).argmax(-1)


def gumbel_noise(seeds: torch.Tensor, steps: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Standard Gumbel noise of shape (R, `vocabulary`), float32, from int64 `seeds` and `steps` of shape (R,)."""
    first, second = row_keys(seeds, steps)
    tokens = torch.arange(vocabulary, dtype=torch.int32, device=seeds.device)
    bits = mix_bits((tokens * _GOLDEN)[None] ^ first[:, None])
    bits = mix_bits(bits ^ second[:, None])
    # 31 bits near 0, where the winners are and float32 is fine: -log(1 - v) is exponential.
    uniform = (bits & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def row_keys(seeds: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two int32 keys a row from its int64 seed and step."""
    state = seeds * -7046029254386353131 + (steps + 1) * -4417276706812531889
    state = (state ^ ((state >> 30) & (2**34 - 1))) * -4658895280553007687
    state = (state ^ ((state >> 27) & (2**37 - 1))) * -7723592293110705685
    state = state ^ ((state >> 31) & (2**33 - 1))
    return _as_int32(state), _as_int32(state >> 32)


def token_logprobs(logits: torch.Tensor, tokens: torch.Tensor, top: int) -> tuple[torch.Tensor, ...]:
    """Log probabilities (natural) under the untempered distribution.

    Args:
        logits: (R, V).
        tokens: (R,), the tokens that were drawn.
        top: How many of the likeliest tokens are wanted.

    Returns:
        (R,) of the tokens drawn; (R, top) of the likeliest; (R, top) which those are.
    """
    logs = logits.float().log_softmax(-1)
    values, places = logs.topk(top, dim=-1) if top else (logs[:, :0], tokens[:, None][:, :0])
    return logs.gather(1, tokens[:, None])[:, 0], values, places


def scored_prompt(logits: torch.Tensor, prompt: Sequence[int], top: int) -> ScoredPrompt:
    """What a model gave a prompt's tokens, each after those before it.

    Args:
        logits: (T, V), after each of the prompt's tokens.
        prompt: Its T tokens.
        top: How many of the likeliest tokens are wanted at each place.
    """
    tokens = torch.tensor(list(prompt[1:]), device=logits.device, dtype=torch.long)
    logprobs, best, which = (t.tolist() for t in token_logprobs(logits[:-1], tokens, top))
    tops = tuple(tuple(zip(ids, values, strict=True)) for ids, values in zip(which, best, strict=True))
    return ScoredPrompt(tuple(prompt[1:]), tuple(logprobs), tops)


def _filter(scores: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Leaves the `top_k` likeliest, then of those the likeliest until `top_p` is reached; at least one."""
    ordered, places = scores.sort(dim=-1, descending=True, stable=True)
    outside = torch.arange(scores.shape[-1], device=scores.device)[None] >= top_k[:, None]
    probabilities = ordered.masked_fill(outside, float("-inf")).softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    # 1 leaves everything, though rounding lets the sum reach 1 before the end.
    outside = outside | ((before >= top_p[:, None]) & (top_p[:, None] < 1))
    outside[:, 0] = False
    return scores.masked_fill(torch.zeros_like(outside).scatter(1, places, outside), float("-inf"))


def _as_int32(values: torch.Tensor) -> torch.Tensor:
    """The low 32 bits."""
    low = values & 0xFFFFFFFF
    return torch.where(low >= 2**31, low - 2**32, low).to(torch.int32)
