"""The decoder written out: transformers' weights, fused projections, and a cache with a place for every row.

It takes over the weights of a model that transformers loaded (`Decoder(model)`); the model is of no use afterwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from em_tasks.plugins.checkpoint_model.engines.stacked import kernels
from em_tasks.plugins.checkpoint_model.engines.stacked.attention import (
    AttentionForm,
    Prompts,
    attend_cache,
    attend_prompts,
)
from em_tasks.plugins.checkpoint_model.engines.stacked.families import GEMMA
from em_tasks.plugins.checkpoint_model.engines.stacked.projections import Layout, Projection

LEAST_ROWS = 16
"""Rows from which on a CPU's matrix products give each row the same bits, whatever the other rows are."""


class Norm:
    """Root-mean-square norm over the last dimension; Gemma's multiplies by 1 + weight in fp32."""

    def __init__(self, module: Any, *, gemma: bool) -> None:
        self.weight = module.weight.detach().float() + 1 if gemma else module.weight.detach()
        self.eps, self.gemma = float(getattr(module, "eps", None) or module.variance_epsilon), gemma

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The normed states, in their own format."""
        if self.gemma:
            return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps).to(x.dtype)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)

    def after_adding(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """X + y, and that normed."""
        if self.gemma:
            x = x + y
            return x, self(x)
        return kernels.add_norm(x, y, self.weight, self.eps)


@dataclass
class Cache:
    """Keys and values of one layer, each of shape (rows, length, key heads, head size)."""

    keys: torch.Tensor
    values: torch.Tensor


@dataclass
class Turns:
    """Rotary positions: cosines and signed sines, each of shape (N, 1, head size)."""

    cos: torch.Tensor
    sin: torch.Tensor


class Layer:
    """One decoder layer."""

    def __init__(self, layer: Any, name: str, kind: str, config: Any) -> None:
        gemma = config.model_type in GEMMA
        attention, mlp = layer.self_attn, layer.mlp
        size = int(attention.head_dim)
        window = getattr(config, "sliding_window", None)
        sliding = kind == "sliding_attention" or (config.model_type == "mistral" and window is not None)
        self.kind = kind
        self.form = AttentionForm(
            heads=attention.q_proj.out_features // size,
            key_heads=attention.k_proj.out_features // size,
            size=size,
            scale=float(attention.scaling),
            window=int(window) if sliding and window is not None else None,
            softcap=getattr(config, "attn_logit_softcapping", None),
        )
        self.before_attention = Norm(layer.input_layernorm, gemma=gemma)
        self.q_norm, self.k_norm = (
            Norm(getattr(attention, which), gemma=gemma) if hasattr(attention, which) else None
            for which in ("q_norm", "k_norm")
        )
        after = layer.post_attention_layernorm
        self.after_attention = Norm(after, gemma=True) if gemma else None
        self.before_mlp = Norm(layer.pre_feedforward_layernorm if gemma else after, gemma=gemma)
        self.after_mlp = Norm(layer.post_feedforward_layernorm, gemma=True) if gemma else None
        self.act: Callable[[torch.Tensor], torch.Tensor] = mlp.act_fn
        self.is_silu = getattr(config, "hidden_act", None) == "silu"

        def projection(block: str, owner: Any, names: Sequence[str]) -> Projection:
            made = Projection([f"{name}.{block}.{n}" for n in names], [getattr(owner, n) for n in names])
            if made.packed is None:
                for n in names:
                    delattr(owner, n)  # Or the weights would be held twice while the model is taken over.
            return made

        self.qkv = projection("self_attn", attention, ("q_proj", "k_proj", "v_proj"))
        self.o = projection("self_attn", attention, ("o_proj",))
        self.gate_up = projection("mlp", mlp, ("gate_proj", "up_proj"))
        self.down = projection("mlp", mlp, ("down_proj",))

    @property
    def projections(self) -> tuple[Projection, ...]:
        """All of them."""
        return self.qkv, self.o, self.gate_up, self.down

    def __call__(
        self,
        x: torch.Tensor,
        normed: torch.Tensor,
        masks: Sequence[torch.Tensor],
        attend: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Passes states through.

        Args:
            x: (N, hidden).
            normed: The same after `before_attention`.
            masks: See `Projection`.
            attend: From queries, keys and values (N, heads + 2 key heads, size) to (N, heads * size).

        Returns:
            The states after attention, and what the MLP adds to them.
        """
        form = self.form
        states = self.qkv(normed, masks).view(x.shape[0], -1, form.size)
        y = self.o(attend(states), masks)
        x, normed = self.before_mlp.after_adding(x, self.after_attention(y) if self.after_attention else y)
        both = self.gate_up(normed, masks)
        if self.is_silu:
            both = kernels.gated(both)
        else:
            gate, up = both.chunk(2, -1)
            both = self.act(gate) * up
        y = self.down(both, masks)
        return x, self.after_mlp(y) if self.after_mlp else y

    def turn(self, states: torch.Tensor, turns: Turns) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values with their positions, each (N, heads or key heads, size)."""
        form = self.form
        turned = form.heads + form.key_heads
        if self.q_norm is None or self.k_norm is None:
            qk = _turn(states[:, :turned], turns)
            q, k = qk[:, : form.heads], qk[:, form.heads :]
        else:
            q = _turn(self.q_norm(states[:, : form.heads]), turns)
            k = _turn(self.k_norm(states[:, form.heads : turned]), turns)
        return q, k, states[:, turned:]


class Decoder:
    """A base's whole forward pass.

    Args:
        model: A causal language model of transformers, of a family that there is a form for. It is taken apart.
    """

    def __init__(self, model: Any) -> None:
        config, inner = model.config, model.model
        self.context = int(config.max_position_embeddings)
        self.softcap = getattr(config, "final_logit_softcapping", None)
        self.embedding, self.head = inner.embed_tokens.weight.detach(), model.lm_head.weight.detach()
        self.dtype, self.device = self.embedding.dtype, self.embedding.device
        self.scale = (
            torch.tensor(config.hidden_size**0.5, dtype=self.dtype, device=self.device)
            if config.model_type in GEMMA
            else None
        )
        self.rotary, self.by_kind = inner.rotary_emb, config.model_type == "gemma3_text"
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        self.layers = []
        for place, (layer, kind) in enumerate(zip(inner.layers, kinds, strict=True)):
            self.layers.append(Layer(layer, f"model.layers.{place}", kind, config))
        self.norm = Norm(inner.norm, gemma=config.model_type in GEMMA)
        self.tables: dict[str, Turns] = {}
        self.turned = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of cache that one place of one row takes, over all layers."""
        return sum(2 * layer.form.key_heads * layer.form.size for layer in self.layers) * int(self.dtype.itemsize)

    def lay_out(self, layout: Layout) -> None:
        """Makes room for adapters in every projection; what was there is gone."""
        for layer in self.layers:
            for projection in layer.projections:
                projection.lay_out(layout)

    def place(self, slot: int, tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Puts an adapter into a slot of every projection."""
        for layer in self.layers:
            for projection in layer.projections:
                projection.place(slot, tensors)

    def new_cache(self, rows: int, length: int) -> list[Cache]:
        """An empty cache for so many rows of so many places."""
        self.tabulate(length)
        return [
            Cache(
                *(
                    torch.zeros(
                        rows, length, layer.form.key_heads, layer.form.size, dtype=self.dtype, device=self.device
                    )
                    for _ in range(2)
                )
            )
            for layer in self.layers
        ]

    def tabulate(self, length: int) -> None:
        """Computes rotary positions up to a length, with the model's own module."""
        if length <= self.turned:
            return
        places, like = torch.arange(length, device=self.device)[None], self.embedding[:1]
        for kind in {layer.kind for layer in self.layers}:
            cos, sin = self.rotary(like, places, kind) if self.by_kind else self.rotary(like, places)
            half = sin.shape[-1] // 2
            signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
            self.tables[kind] = Turns(cos[0][:, None], signed[0][:, None])
        self.turned = length

    def read(
        self, ids: torch.Tensor, places: torch.Tensor, masks: Sequence[torch.Tensor], prompts: Prompts,
        keep: Callable[[int, torch.Tensor, torch.Tensor], None], whole: Sequence[slice] = (),
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:  # fmt: skip
        """Reads prompts laid end to end.

        Args:
            ids: (T,) tokens.
            places: (T,) each token's place in its own prompt.
            masks: See `Projection`.
            prompts: Where each begins.
            keep: Called for each layer with its number, keys and values of shape (T, key heads, size).
            whole: Places in T after each of which logits are wanted too.

        Returns:
            Logits after each prompt's last token, (prompts, V), and those of each of `whole`.
        """
        turns = self._turns(places)

        def attend(number: int, layer: Layer, states: torch.Tensor) -> torch.Tensor:
            q, k, v = layer.turn(states, turns[layer.kind])
            keep(number, k, v)
            return attend_prompts(layer.form, q, k, v, prompts)

        states = self._through(ids, masks, attend)
        return self._logits(states[prompts.bounds[1:].long() - 1]), [self._logits(states[part]) for part in whole]

    def step(
        self,
        ids: torch.Tensor,
        places: torch.Tensor,
        masks: Sequence[torch.Tensor],
        cache: Sequence[Cache],
        length: int,
    ) -> torch.Tensor:
        """Reads one token of each of the cache's first R rows.

        Args:
            ids: (R,) tokens.
            places: (R,) int64: the place of each.
            masks: See `Projection`.
            cache: One a layer.
            length: No row uses more places than this.

        Returns:
            Logits (R, V).
        """
        rows, capacity = ids.shape[0], cache[0].keys.shape[1]
        turns = self._turns(places)
        used = (places + 1).to(torch.int32)
        target = torch.arange(rows, device=ids.device) * capacity + places

        def attend(number: int, layer: Layer, states: torch.Tensor) -> torch.Tensor:
            keys, values = cache[number].keys[:rows], cache[number].values[:rows]
            flat_keys, flat_values = (held.view(-1, *held.shape[2:]) for held in (keys, values))
            if layer.q_norm is None and kernels.usable(states):
                turn = turns[layer.kind]
                q = kernels.turn_and_keep(states, turn.cos, turn.sin, flat_keys, flat_values, target)
            else:
                q, k, v = layer.turn(states, turns[layer.kind])
                flat_keys.index_copy_(0, target, k)
                flat_values.index_copy_(0, target, v)
            return attend_cache(layer.form, q, keys, values, used, length)

        return self._logits(self._through(ids, masks, attend))

    def _through(
        self,
        ids: torch.Tensor,
        masks: Sequence[torch.Tensor],
        attend: Callable[[int, Layer, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Tokens through all layers and the last norm."""
        x = self._embed(ids)
        normed = self.layers[0].before_attention(x)
        norms = [*(layer.before_attention for layer in self.layers[1:]), self.norm]
        for number, (layer, norm) in enumerate(zip(self.layers, norms, strict=True)):
            x, y = layer(x, normed, masks, partial(attend, number, layer))
            x, normed = norm.after_adding(x, y)
        return normed

    def _embed(self, ids: torch.Tensor) -> torch.Tensor:
        x = F.embedding(ids, self.embedding)
        return x if self.scale is None else x * self.scale

    def _turns(self, places: torch.Tensor) -> dict[str, Turns]:
        return {kind: Turns(table.cos[places], table.sin[places]) for kind, table in self.tables.items()}

    def _logits(self, normed: torch.Tensor) -> torch.Tensor:
        rows = normed.shape[0]
        logits = F.linear(pad_rows(normed), self.head)[:rows]
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def pad_rows(x: torch.Tensor) -> torch.Tensor:
    """Pads (N, ...) with zeros to `LEAST_ROWS` on a CPU, whose products of fewer rows are summed in another order."""
    short = LEAST_ROWS - x.shape[0]
    if x.is_cuda or short <= 0:
        return x
    return torch.cat([x, x.new_zeros(short, *x.shape[1:])])


def _turn(states: torch.Tensor, turns: Turns) -> torch.Tensor:
    """Rotary positions on (N, heads, size): the second half of the sines' sign is in the table."""
    return torch.addcmul(states * turns.cos, states.roll(states.shape[-1] // 2, -1), turns.sin)
