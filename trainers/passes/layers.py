"""What is done to a base's layers before training: compiled for the GPU, and recomputed where memory is short."""

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prepare_layers(model: "PreTrainedModel", *, compiled: bool, checkpointing: bool, backend: str = "inductor") -> None:
    """Replaces each decoder layer's forward pass.

    Layers are compiled one by one: they share their code, so one compilation serves all of them. The recomputing stands
    outside the compiled part (inside, torch 2.11 fails to cut an NF4 layer in two); dropout repeats its random numbers.

    Args:
        model: A base whose layers have adapters in them.
        compiled: Compile each layer.
        checkpointing: Keep only each layer's input and compute the layer again in the backward pass.
        backend: torch.compile's backend.
    """
    layers = model.get_decoder().layers
    if compiled and any(parameter.requires_grad for parameter in layers[0].parameters()):
        # The first layer's input then needs a gradient like all others', and one compilation serves it too.
        model.enable_input_require_grads()
    for layer in layers:
        forward = layer.forward
        if compiled:
            forward = torch.compile(forward, dynamic=True, backend=backend)
        if checkpointing:
            forward = partial(checkpoint, forward, use_reentrant=False)
        layer.forward = forward
