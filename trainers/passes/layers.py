"""What is done to a base's layers before training: compiled for the GPU, and recomputed where memory is short.

The loss is compiled with them: logits are by far the largest numbers of a pass, and each operation on its own reads and
writes them all.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from em_tasks.trainers.data.tokens import IGNORED

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


Loss = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]


def prepared_loss(*, compiled: bool, backend: str = "inductor") -> Loss:
    """`label_loss`, compiled or not, see `prepare_layers`; as compiled it serves all numbers of labels."""
    if not compiled:
        return label_loss
    through: Loss = torch.compile(label_loss, backend=backend)

    def loss(logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
        torch._dynamo.maybe_mark_dynamic(logits, 0)
        torch._dynamo.maybe_mark_dynamic(labels, 0)
        return through(logits, labels, reduction)

    return loss


def label_loss(logits: torch.Tensor, labels: torch.Tensor, reduction: str) -> torch.Tensor:
    """Cross-entropy in nats, in fp32; 0 where a label is `IGNORED`.

    Args:
        logits: (N, vocabulary).
        labels: (N,).
        reduction: `sum`, or `none` for all N.
    """
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction=reduction)
