"""Small steps of the decoder done in one kernel each on a GPU; torch does the same elsewhere.

A decode step of a small model is bound by the number of kernels, and drawing by passes over the vocabulary. Each
function here has a form in torch beside it, rounds where that form rounds, and is used only where Triton is installed.
"""

import logging
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

LOG = logging.getLogger(__name__)
BLOCK = 2048
TILE = 16
"""Rows of a tensor core's smallest product."""
KEYS = 64
"""Keys that attention reads at a time."""


def usable(states: torch.Tensor) -> bool:
    """Whether these states are where the kernels run."""
    return states.is_cuda and states.dtype == torch.bfloat16 and _kernels() is not None


def gated(states: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up for states (N, 2 I), gate first; rows may be apart."""
    half = states.shape[1] // 2
    if not usable(states):
        return F.silu(states[:, :half]) * states[:, half:]
    out = torch.empty(states.shape[0], half, dtype=states.dtype, device=states.device)
    _kernels().gated[states.shape[0], -(-half // BLOCK)](states, out, states.stride(0), half, BLOCK=BLOCK)
    return out


def add_norm(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """X + y and its root-mean-square norm times `weight`, for (N, hidden); rows of y may be apart."""
    rows, hidden = x.shape
    if not usable(x):
        x = x + y
        return x, F.rms_norm(x, (hidden,), weight, eps)
    total, normed = torch.empty_like(x), torch.empty_like(x)
    block = 1 << (hidden - 1).bit_length()
    _kernels().add_norm[(rows,)](x, y, weight, total, normed, y.stride(0), hidden, eps, BLOCK=block)
    return total, normed


def turn_and_keep(
    states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
    target: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Rotary positions on queries and keys; keys and values go into the cache.

    Args:
        states: (R, heads + 2 key heads, size): queries, keys, values; rows may be apart.
        cos: (R, 1, size).
        sin: As `cos`, the first half negated.
        keys: (places, key heads, size), contiguous.
        values: As `keys`.
        target: (R,) int64: the place of each row's token.

    Returns:
        The queries, (R, heads, size).
    """
    rows, every, size = states.shape
    heads = every - 2 * keys.shape[1]
    out = torch.empty(rows, heads, size, dtype=states.dtype, device=states.device)
    _kernels().turn_and_keep[rows, every](
        states, cos, sin, keys, values, target, out, states.stride(0), heads, keys.shape[1], SIZE=size
    )
    return out


def attends(heads: int, key_heads: int, size: int) -> bool:
    """Whether `attend` has a form for such heads: a few queries to a key, in a tensor core's smallest tile."""
    return heads // key_heads <= TILE and size in (64, 128)


def attend(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, used: torch.Tensor, scale: float
) -> torch.Tensor:  # fmt: skip
    """One token of each row over the row's first places; each key is read once, for all query heads that share it.

    FlashAttention does the work of 128 queries a key head where there are 4, and is bound by that.

    Args:
        q: (R, heads, size), contiguous.
        keys: (R, L, key heads, size), contiguous.
        values: As `keys`.
        used: (R,) int32: places in use, at least 1.
        scale: Factor before the softmax.

    Returns:
        (R, heads, size).
    """
    rows, heads, size = q.shape
    out = torch.empty_like(q)
    _kernels().attend[rows, keys.shape[2]](
        q, keys, values, used, out, scale, keys.stride(0), HEADS=heads, KEY_HEADS=keys.shape[2], SIZE=size,
        QUERIES=TILE, BLOCK=KEYS, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


def drawn(
    logits: torch.Tensor, keys: tuple[torch.Tensor, torch.Tensor], temperature: torch.Tensor, sampled: torch.Tensor
) -> torch.Tensor:
    """Gumbel-max in one pass over the logits (R, V); see `drawing.draw` for the other arguments. Tokens (R,)."""
    rows, vocabulary = logits.shape
    parts = -(-vocabulary // BLOCK)
    best = torch.empty(rows, parts, dtype=torch.float32, device=logits.device)
    where = torch.empty(rows, parts, dtype=torch.int32, device=logits.device)
    _kernels().draw[rows, parts](
        logits, *keys, temperature, sampled, best, where, logits.stride(0), vocabulary, parts, BLOCK=BLOCK
    )
    return where.gather(1, best.argmax(-1, keepdim=True))[:, 0].long()


@cache
def _kernels() -> Any:
    """The kernels, or None where Triton is not installed or cannot compile for this GPU."""
    try:
        from em_tasks.plugins.checkpoint_model.engines.stacked import triton_kernels

        if torch.cuda.is_available():
            states = torch.zeros(1, 16, dtype=torch.bfloat16, device="cuda")
            triton_kernels.gated[1, 1](states, states[:, :8].clone(), 16, 8, BLOCK=BLOCK)
    except Exception as error:
        LOG.warning("Decoding goes without Triton's kernels, and slower: %s", " ".join(str(error).split())[:200])
        return None
    return triton_kernels
