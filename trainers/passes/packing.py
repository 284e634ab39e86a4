"""Padding-free batches: all rows of a batch laid end to end, so that no projection ever computes padding.

Real rows are half as long as the longest, so a padded batch wastes about half its work. Here the linear layers, 98 % of
the arithmetic, see one long row of real tokens. Attention alone needs the rows apart: queries, keys and values are
spread out to (rows, longest) for it and gathered again. There, padding stands behind the real tokens, where causal
attention never looks, so no mask is needed and every device uses its fastest causal kernel.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.tokens import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "em_packed"
"""Name of the attention below in transformers' registry."""

ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers, as transformers' configurations name them, in which tokens meet in attention alone."""

MULTIPLE = 8
"""The longest row is rounded up to a multiple of this, or attention kernels and compiled layers differ by length."""


class Size(NamedTuple):
    """Tokens of packed rows, of the longest of them, and tokens that are learnt."""

    tokens: int
    longest: int
    labelled: int


def size_of(rows: Sequence[dict[str, list[int]]]) -> Size:
    """The size of encoded rows when they are packed."""
    lengths = [len(row["input_ids"]) for row in rows]
    return Size(sum(lengths), max(lengths), sum(label != IGNORED for row in rows for label in row["labels"][1:]))


def pack(rows: Sequence[dict[str, list[int]]], size: Size | None = None) -> dict[str, torch.Tensor]:
    """Lays encoded rows end to end.

    Args:
        rows: Encoded rows, see `em_tasks.trainers.data.tokens.Encoded`.
        size: What to fill the batch up to, if it is to have a certain size; no smaller than the rows, and `longest` a
            multiple of `MULTIPLE`. Tokens that fill it up are one row more, in which each sees the first alone, and
            have no gradient, since none of them is learnt; places that fill up `predicting` have the target `IGNORED`.

    Returns:
        For T tokens in R rows, the longest of length L (rounded up to `MULTIPLE`), int64 each:
        `input_ids` and `position_ids` of shape (1, T), positions counting from 0 in each row;
        `labels` (1, T), the first token of a row never being one, since nothing comes before it;
        `predicting` (N,), the places whose next token is labelled, and `targets` (N,), that next token;
        `spread` (R, L), the place in T of each token (padding points at the row's first), and `gather` (T,), the
        place in R x L of each token.
    """
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    starts = torch.cumsum(lengths, 0) - lengths
    longest = -(-int(lengths.max()) // MULTIPLE) * MULTIPLE if size is None else size.longest
    places = torch.arange(longest).expand(len(rows), longest)
    real = places < lengths[:, None]
    labels = torch.tensor([label for row in rows for label in (IGNORED, *row["labels"][1:])])
    labelled = (labels != IGNORED).nonzero().flatten()
    batch = {
        "input_ids": torch.tensor([token for row in rows for token in row["input_ids"]])[None],
        "position_ids": places[real][None],
        "labels": labels[None],
        "predicting": labelled - 1,
        "targets": labels[labelled],
        "spread": starts[:, None] + places * real,
        "gather": real.flatten().nonzero().flatten(),
    }
    return batch if size is None else _filled(batch, size)


def _filled(batch: dict[str, torch.Tensor], size: Size) -> dict[str, torch.Tensor]:
    """A batch filled up to a size; see `pack`."""
    tokens, (rows, longest) = batch["gather"].numel(), batch["spread"].shape
    free, unlearnt = size.tokens - tokens, size.labelled - batch["targets"].numel()

    def longer(name: str, by: int, value: int) -> torch.Tensor:
        return torch.nn.functional.pad(batch[name], (0, by), value=value)

    first = torch.full((1, longest), min(tokens, size.tokens - 1))
    return {
        "input_ids": longer("input_ids", free, 0),
        "position_ids": longer("position_ids", free, 0),
        "labels": longer("labels", free, IGNORED),
        "predicting": longer("predicting", unlearnt, 0),
        "targets": longer("targets", unlearnt, IGNORED),
        "spread": torch.cat([batch["spread"], first]),
        "gather": longer("gather", free, rows * longest),
    }


def use_packed_attention(model: "PreTrainedModel") -> None:
    """Has the model's attention work on packed batches; `spread` and `gather` must then come with every call.

    Raises:
        UserError: The model's attention is not plain causal attention through transformers' interface.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, _packed_attention)
    if not getattr(model, "_supports_attention_backend", False):
        raise UserError(
            f"{type(model).__name__} does not take its attention from transformers' registry, so its rows cannot be "
            "trained without padding. Train a Llama, Qwen, Gemma or Mistral."
        )
    # A convolution or a recurrence would carry one row into the next.
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ATTENTION_LAYERS)
    if others := sorted(kinds - ATTENTION_LAYERS):
        raise UserError(
            f"{type(model).__name__} has layers that mix tokens without attention ({', '.join(others)}), so its rows "
            "cannot be trained without padding. Train a Llama, Qwen, Gemma or Mistral."
        )
    model.set_attn_implementation(ATTENTION)
    # cuDNN's kernels are planned anew for every shape, which takes a millisecond a layer; torch's own are not.
    torch.backends.cuda.enable_cudnn_sdp(False)


class _Spread(torch.autograd.Function):
    """(T, ...) to (R, L, ...). Padding repeats a real token that no real token attends to, so it gets no gradient."""

    @staticmethod
    def forward(context: Any, packed: torch.Tensor, spread: torch.Tensor, gather: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(gather)
        return packed[spread]

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gather,) = context.saved_tensors
        return gradient.flatten(0, 1)[gather], None, None


class _Gather(torch.autograd.Function):
    """(R, L, ...) to (T, ...). Padding is left behind and gets a zero gradient."""

    @staticmethod
    def forward(context: Any, apart: torch.Tensor, spread: torch.Tensor, gather: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(spread, gather)
        return apart.flatten(0, 1)[gather]

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        spread, gather = context.saved_tensors
        real = torch.zeros(spread.numel(), dtype=torch.bool, device=gather.device).index_fill(0, gather, True)
        real = real.view(*spread.shape, *[1] * (gradient.dim() - 1))
        return torch.where(real, gradient[spread], 0), None, None


def _packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    spread: torch.Tensor,
    gather: torch.Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each row of a packed batch, in the form of transformers' attention interface.

    Args:
        module: The attention layer.
        query: (1, heads, T, head size).
        key: (1, key heads, T, head size).
        value: As `key`.
        attention_mask: None: which tokens belong together is said by the next two.
        spread: See `pack`.
        gather: See `pack`.
        scaling: Factor before the softmax.
        dropout: Of the attention weights.
        sliding_window: Must reach over the longest row.
        softcap: Must be None.
        s_aux: Attention sinks; must be None.
        others: What other attentions need.

    Returns:
        (1, T, heads, head size), and no attention weights.
    """
    if s_aux is not None:
        raise UserError(
            f"{type(module).__name__} uses attention sinks, which packed training does not do. Train another model."
        )
    if softcap is not None or (sliding_window is not None and sliding_window < spread.shape[1]):
        raise UserError(
            f"{type(module).__name__} uses a soft cap or a sliding window shorter than the longest row "
            f"({spread.shape[1]} tokens), which packed training does not do. Lower max_length in the recipe, or train "
            "another model."
        )

    def apart(states: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = _Spread.apply(states[0].transpose(0, 1), spread, gather)  # type: ignore[no-untyped-call]
        return rows.transpose(1, 2)

    answered = torch.nn.functional.scaled_dot_product_attention(
        apart(query),
        apart(key),
        apart(value),
        is_causal=True,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    packed: torch.Tensor = _Gather.apply(answered.transpose(1, 2), spread, gather)  # type: ignore[no-untyped-call]
    return packed[None], None
