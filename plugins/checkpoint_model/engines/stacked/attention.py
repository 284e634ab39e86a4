"""Keys and values of every row, and attention over them.

Each row owns a place in a cache of shape (rows, length, key heads, head size). A kernel of ours reads it with a length
a row, else FlashAttention does; where neither can (a CPU, fp32, soft caps) torch's attention reads it under a mask.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from em_tasks.plugins.checkpoint_model.engines.stacked import kernels

BLOCK = 64
"""Lengths are rounded up to this, so that few shapes occur."""


@dataclass(frozen=True)
class AttentionForm:
    """What one layer's attention is.

    Attributes:
        heads: Query heads.
        key_heads: Heads of keys and values.
        size: Of a head.
        scale: Factor before the softmax.
        window: Places that a token sees back, its own included; None for all.
        softcap: Bound of the scores before the softmax, by tanh; None for none.
    """

    heads: int
    key_heads: int
    size: int
    scale: float
    window: int | None
    softcap: float | None

    def flashes(self, states: torch.Tensor) -> bool:
        """Whether FlashAttention can do it."""
        return states.is_cuda and states.dtype in (torch.bfloat16, torch.float16) and self.softcap is None


@dataclass
class Prompts:
    """Prompts laid end to end.

    Attributes:
        lengths: Tokens of each prompt.
        bounds: (prompts + 1,) int32: where each begins and ends.
    """

    lengths: list[int]
    bounds: torch.Tensor


def attend_prompts(form: AttentionForm, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, p: Prompts) -> torch.Tensor:
    """Causal attention inside each prompt.

    Args:
        form: The layer's.
        q: (T, heads, size).
        k: (T, key heads, size).
        v: As `k`.
        p: Where the prompts lie in T.

    Returns:
        (T, heads * size).
    """
    if form.flashes(q):
        longest = max(p.lengths)
        out = _flash(form, q, k, v, p.bounds, p.bounds, longest, longest, None)
        return out.reshape(q.shape[0], -1)
    outs = []
    for rows in zip(*(torch.split(states, p.lengths) for states in (q, k, v)), strict=True):
        one_q, one_k, one_v = (states.transpose(0, 1)[None] for states in rows)
        places = torch.arange(one_q.shape[2], device=q.device)
        seen = places[None] <= places[:, None]
        if form.window is not None:
            seen &= places[None] > places[:, None] - form.window
        outs.append(_masked(form, one_q, one_k, one_v, seen)[0].transpose(0, 1))
    return torch.cat(outs).reshape(q.shape[0], -1)


def attend_cache(
    form: AttentionForm, q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, used: torch.Tensor, length: int
) -> torch.Tensor:
    """One token of each row over what its row has cached.

    Args:
        form: The layer's.
        q: (R, heads, size).
        keys: (R, L, key heads, size), contiguous.
        values: As `keys`.
        used: (R,) int32: places in use, the token's own included.
        length: No row uses more places than this.

    Returns:
        (R, heads * size).
    """
    rows, capacity = keys.shape[:2]
    if _reads_keys_once(form, q):
        return kernels.attend(q.contiguous(), keys, values, used, form.scale).reshape(rows, -1)
    if form.flashes(q):
        starts = torch.arange(rows + 1, device=q.device, dtype=torch.int32)
        k, v = (states.view(rows * capacity, form.key_heads, form.size) for states in (keys, values))
        group = form.heads // form.key_heads
        if group == 1 or form.window is not None:
            return _flash(form, q, k, v, starts, starts * capacity, 1, capacity, used).reshape(rows, -1)
        # Query heads of one key head as so many queries: each key is then read once for all of them.
        q = q.view(rows, form.key_heads, group, form.size).transpose(1, 2).reshape(-1, form.key_heads, form.size)
        out = _flash(form, q, k, v, starts * group, starts * capacity, group, capacity, used)
        return out.view(rows, group, form.key_heads, form.size).transpose(1, 2).reshape(rows, -1)
    places = torch.arange(length, device=q.device)
    seen = places[None] < used[:, None]
    if form.window is not None:
        seen &= places[None] >= used[:, None] - form.window
    k, v = keys[:, :length].transpose(1, 2), values[:, :length].transpose(1, 2)
    return _masked(form, q[:, :, None], k, v, seen[:, None, None]).reshape(rows, -1)


def kernel_name(form: AttentionForm, states: torch.Tensor) -> str:
    """What attends to the cache on the device of such states, for the log."""
    if _reads_keys_once(form, states):
        return "a Triton kernel over the cache, FlashAttention-2 (torch) over prompts"
    if form.flashes(states):
        return "FlashAttention-2 (torch), a length a row"
    return "matrix products with a soft cap" if form.softcap is not None else "torch sdpa, masked"


def _reads_keys_once(form: AttentionForm, states: torch.Tensor) -> bool:
    plain = form.softcap is None and form.window is None
    return plain and kernels.usable(states) and kernels.attends(form.heads, form.key_heads, form.size)


def _flash(
    form: AttentionForm, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds_q: torch.Tensor,
    bounds_k: torch.Tensor, longest_q: int, longest_k: int, used: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    # torch's public varlen attention takes `seqused_k` from 2.12 on; this is the operator beneath it.
    window = {} if form.window is None else {"window_size_left": form.window - 1, "window_size_right": 0}
    causal = used is None
    out: torch.Tensor = torch.ops.aten._flash_attention_forward(
        q, k, v, bounds_q, bounds_k, longest_q, longest_k, 0.0, causal, False, scale=form.scale, seqused_k=used,
        **window,
    )[0]  # fmt: skip
    return out


def _masked(form: AttentionForm, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """Attention under a mask: q (R, heads, Q, size), k and v (R, key heads, K, size), `seen` like (R, 1, Q, K)."""
    grouped = form.heads != form.key_heads
    if form.softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=form.scale, enable_gqa=grouped)
    k, v = (states.repeat_interleave(form.heads // form.key_heads, 1) for states in (k, v))
    scores = form.softcap * torch.tanh(q @ k.transpose(-1, -2) * form.scale / form.softcap)
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1, dtype=torch.float32).to(q.dtype)
    return weights @ v
