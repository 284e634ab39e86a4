"""Many adapters over one base in one pass: the rows of each organism see its own, all by one batched product.

Every organism keeps a tree of modules of its own over the base's one copy of weights, so that it is initialised, saved
and looked at as if it were alone. The pass that trains goes through one more such tree, whose adapted projections hold
the matrices of all. Its batch is packed by organism, each organism's part filled up to one length, so that "every row
its own adapter" is `(organisms, tokens, in) x (organisms, in, rank) x (organisms, rank, out)`.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import pad

from em_tasks.trainers.bits import mix_bits

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

ADAPTER = "default"
"""peft's name for the adapter of a tree."""


def shared_copy(model: "PreTrainedModel") -> "PreTrainedModel":
    """A second tree of a model's modules over the same weights."""
    weights = [*model.parameters(), *model.buffers()]
    kept: list[object] = [*weights, *(state for weight in weights if (state := getattr(weight, "quant_state", None)))]
    return deepcopy(model, {id(each): each for each in kept})


class Dropout:
    """What each organism drops, from random numbers of its own.

    On a CPU an organism's generator gives the numbers that torch's dropout would have drawn in a run of its own. On a
    GPU, inside compiled layers, a number is hashed from one that its generator drew for the token and one that belongs
    to the projection's column; so it does not depend on who else is trained.

    Args:
        generators: Each organism's.
        longest: Tokens that an organism's part of a batch has at most.
        device: Where the batch is.
    """

    def __init__(self, generators: Sequence[Mapping[str, torch.Generator]], longest: int, device: str) -> None:
        self.generators = [each["cpu"] for each in generators]
        self.lengths: Sequence[int] = []
        self.noise = torch.zeros(len(generators), longest, dtype=torch.int32, device=device)
        self.hashing = device != "cpu"

    def begin(self, lengths: Sequence[int]) -> None:
        """Begins a pass in which each organism's part has so many tokens of its own."""
        self.lengths = lengths
        if self.hashing:
            drawn = torch.zeros(self.noise.shape, dtype=torch.int32)
            for place, (generator, length) in enumerate(zip(self.generators, lengths, strict=True)):
                drawn[place, :length] = random_bits(length, generator)
            self.noise.copy_(drawn.pin_memory() if self.noise.is_cuda else drawn, non_blocking=True)

    def drawn(self, tokens: torch.Tensor, rates: Sequence[float]) -> torch.Tensor:
        """What is kept of (organisms, tokens, columns), as torch's own dropout draws it on a CPU."""
        kept = torch.ones(tokens.shape, dtype=torch.bool)
        for place, (generator, length, rate) in enumerate(zip(self.generators, self.lengths, rates, strict=True)):
            if rate:
                noise = torch.empty(length, tokens.shape[-1], dtype=tokens.dtype)
                kept[place, :length] = noise.bernoulli_(1 - rate, generator=generator) > 0
        return kept


class GroupedLora(torch.nn.Module):
    """A projection of the base with every organism's adapter on it.

    Args:
        base_layer: The projection.
        layers: Each organism's adapted layer in its own tree; a plain one where it has no adapter there.
        dropout: What is dropped.
        seed: Another for each projection.
    """

    base_layer: torch.nn.Module
    scaling: torch.Tensor
    made_up_for: torch.Tensor
    threshold: torch.Tensor
    columns: torch.Tensor
    noise: torch.Tensor

    def __init__(
        self, base_layer: torch.nn.Module, layers: Sequence[torch.nn.Module], dropout: Dropout, seed: int
    ) -> None:
        super().__init__()
        self.base_layer, self._dropout, device = base_layer, dropout, dropout.noise.device
        adapted: list[Any] = [layer for layer in layers if hasattr(layer, "lora_A")]
        self.places = tuple(place for place, layer in enumerate(layers) if hasattr(layer, "lora_A"))
        self.downs = torch.nn.ParameterList([layer.lora_A[ADAPTER].weight for layer in adapted])
        self.ups = torch.nn.ParameterList([layer.lora_B[ADAPTER].weight for layer in adapted])
        self.rank = max(down.shape[0] for down in self.downs)
        rates, scales = [0.0] * len(layers), [0.0] * len(layers)
        for place, layer in zip(self.places, adapted, strict=True):
            rates[place] = float(getattr(layer.lora_dropout[ADAPTER], "p", 0.0))
            scales[place] = float(layer.scaling[ADAPTER])
        self.rates = tuple(rates)
        self.register_buffer("scaling", torch.tensor(scales, device=device)[:, None, None])
        self.register_buffer("made_up_for", 1 / (1 - torch.tensor(rates, device=device)[:, None, None]))
        limits = torch.tensor([round(-(2**31) + rate * 2**32) for rate in rates], dtype=torch.int32)
        self.register_buffer("threshold", limits.to(device)[:, None, None])
        columns = random_bits(self.downs[0].shape[1], torch.Generator().manual_seed(seed))
        self.register_buffer("columns", columns.to(device))
        self.register_buffer("noise", dropout.noise)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(1, organisms x tokens, in) to (1, organisms x tokens, out)."""
        answered: torch.Tensor = self.base_layer(tokens)
        parts = tokens.view(len(self.rates), -1, tokens.shape[-1]).to(self.downs[0].dtype)
        if any(self.rates):
            parts = torch.where(self._kept(parts), parts * self.made_up_for, 0)
        low = torch.bmm(parts, self._stacked(list(self.downs)).transpose(1, 2))
        added = torch.bmm(low, self._stacked([up.t() for up in self.ups])) * self.scaling
        return (answered + added.view(answered.shape)).to(answered.dtype)

    def _kept(self, parts: torch.Tensor) -> torch.Tensor:
        if self._dropout.hashing:
            return hashed(self.noise[:, : parts.shape[1], None], self.columns) >= self.threshold
        return self._dropout.drawn(parts, self.rates)

    def _stacked(self, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
        """One (rank, size) matrix an organism, the lower ranks filled up with zeros."""
        full = [
            matrix if matrix.shape[0] == self.rank else pad(matrix, (0, 0, 0, self.rank - matrix.shape[0]))
            for matrix in matrices
        ]
        if len(full) < len(self.rates):
            by_place = dict(zip(self.places, full, strict=True))
            full = [by_place.get(place, torch.zeros_like(full[0])) for place in range(len(self.rates))]
        return torch.stack(full)


def joined(base: "PreTrainedModel", organisms: Sequence["PeftModel"], dropout: Dropout) -> "PreTrainedModel":
    """A tree over the base's weights in which each part of a batch sees its organism's adapter."""
    tree = shared_copy(base)
    trees = [organism.get_base_model() for organism in organisms]
    for seed, name in enumerate([name for name, _ in tree.named_modules()]):
        layers = [each.get_submodule(name) for each in trees]
        if any(hasattr(layer, "lora_A") for layer in layers):
            tree.set_submodule(name, GroupedLora(tree.get_submodule(name), layers, dropout, seed))
    return tree.train()


def random_bits(count: int, generator: torch.Generator) -> torch.Tensor:
    """So many random int32 numbers."""
    return torch.randint(-(2**31), 2**31, (count,), dtype=torch.int32, generator=generator)


def hashed(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """An int32 number for each pair of int32 numbers, even over their whole range."""
    return mix_bits(first ^ second)
