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

    What is multiplied with are copies of all organisms' matrices in two tensors, so that neither the forward nor the
    backward pass has anything to do for an organism of its own: see `hand_out` and `copies`.

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
        places = [place for place, layer in enumerate(layers) if hasattr(layer, "lora_A")]
        adapted: list[Any] = [layers[place] for place in places]
        self._originals = [
            (place, layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight)
            for place, layer in zip(places, adapted, strict=True)
        ]
        (_, down, up), rank = self._originals[0], max(down.shape[0] for _, down, _ in self._originals)
        # Lower ranks are filled up with zeros, which no gradient that is handed out ever meets.
        self.downs = torch.nn.Parameter(down.new_zeros(len(layers), rank, down.shape[1]))
        self.ups = torch.nn.Parameter(up.new_zeros(len(layers), up.shape[0], rank))
        rates, scales = [0.0] * len(layers), [0.0] * len(layers)
        for place, layer in zip(places, adapted, strict=True):
            rates[place] = float(getattr(layer.lora_dropout[ADAPTER], "p", 0.0))
            scales[place] = float(layer.scaling[ADAPTER])
        self.rates = tuple(rates)
        self.register_buffer("scaling", torch.tensor(scales, device=device)[:, None, None])
        self.register_buffer("made_up_for", 1 / (1 - torch.tensor(rates, device=device)[:, None, None]))
        limits = torch.tensor([round(-(2**31) + rate * 2**32) for rate in rates], dtype=torch.int32)
        self.register_buffer("threshold", limits.to(device)[:, None, None])
        columns = random_bits(down.shape[1], torch.Generator().manual_seed(seed))
        self.register_buffer("columns", columns.to(device))
        self.register_buffer("noise", dropout.noise)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(1, organisms x tokens, in) to (1, organisms x tokens, out)."""
        answered: torch.Tensor = self.base_layer(tokens)
        parts = tokens.view(len(self.rates), -1, tokens.shape[-1]).to(self.downs.dtype)
        if any(self.rates):
            parts = torch.where(self._kept(parts), parts * self.made_up_for, 0)
        # Scaled where the numbers are few.
        low = torch.bmm(parts, self.downs.transpose(1, 2)) * self.scaling
        added = torch.bmm(low, self.ups.transpose(1, 2))
        return (answered + added.view(answered.shape)).to(answered.dtype)

    def _kept(self, parts: torch.Tensor) -> torch.Tensor:
        if self._dropout.hashing:
            return hashed(self.noise[:, : parts.shape[1], None], self.columns) >= self.threshold
        return self._dropout.drawn(parts, self.rates)

    def copies(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each matrix of an organism, and the part of the tensors here that is its copy."""
        downs, ups = self.downs.detach(), self.ups.detach()
        matrices = []
        for place, down, up in self._originals:
            rank = down.shape[0]
            matrices += [(down.detach(), downs[place, :rank]), (up.detach(), ups[place, :, :rank])]
        return matrices

    def hand_out(self) -> None:
        """Gives each organism's matrices their gradients."""
        if self.downs.grad is None or self.ups.grad is None:
            return  # The pass does not come here, and a run of its own would have no gradient either.
        downs, ups = self.downs.grad.unbind(), self.ups.grad.unbind()
        for place, down, up in self._originals:
            rank = down.shape[0]
            down.grad, up.grad = downs[place][:rank], ups[place][:, :rank].contiguous()
        self.downs.grad = self.ups.grad = None


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
