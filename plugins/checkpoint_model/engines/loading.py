"""Loading a base for generation, checked to be the one that was trained on."""

import logging
import threading
import warnings
from functools import cache
from importlib.metadata import version
from typing import Any

from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import fingerprint, load_base
from em_tasks.trainers.run.checkpoints import Checkpoint

_ONE_AT_A_TIME = threading.Lock()
"""transformers puts the whole process's torch on its meta device while it builds a model."""


def load_checked_base(on: EvaluatedBase, device: str, checkpoint: Checkpoint) -> tuple[Any, str]:
    """Loads a base.

    Args:
        on: The base, its precision, and what its fingerprint must be.
        device: A torch device.
        checkpoint: Whose base it is to be, for messages.

    Returns:
        The model, ready to generate, and its fingerprint.

    Raises:
        UserError: It is not to be had, or not the base that was trained on, or this device cannot run it.
    """
    from transformers import GenerationConfig

    _keep_off_the_display()
    with _ONE_AT_A_TIME:
        model: Any = load_base(on.base, on.precision, device)
    fingerprinted = fingerprint(model)
    if on.precision == "nf4" and device == "cpu":
        _refuse_odd_widths(model, on.base)
    if on.fingerprint not in (None, fingerprinted):
        raise UserError(
            f"{on.base} is not the base that {checkpoint.run} was trained on: its fingerprint is "
            f"{fingerprinted[:12]}, the manifest says {on.fingerprint[:12]}. Bring that base back, "
            f"train anew, or evaluate on this one knowingly, under another name: -M base={on.base}"
        )
    # Nothing of the base's own defaults but the special tokens: transformers would fill in what we leave open.
    ends = {"eos_token_id": model.generation_config.eos_token_id}
    model.generation_config = GenerationConfig(bos_token_id=model.generation_config.bos_token_id, **ends)
    return model.eval(), fingerprinted


def linear_shapes(model: Any) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of a model's linear layers by full name, 4-bit ones included."""
    import torch

    layers = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}


@cache
def library_versions(*names: str) -> str:
    """`name version` of each library, for the log of every answer; looking one up reads the metadata of all."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def free(device: str) -> None:
    """Gives back the memory of a model that nobody holds any more."""
    import gc

    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _keep_off_the_display() -> None:
    """Warnings of libraries that nobody can do anything about would break into Inspect's display."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="transformers|peft|bitsandbytes|torch")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _refuse_odd_widths(model: Any, base: str) -> None:
    """Tells beforehand what would fail in the middle of an answer: bitsandbytes' NF4 kernel for CPUs."""
    widths = {int(module.in_features) for module in model.modules() if type(module).__name__ == "Linear4bit"}
    if odd := sorted(width for width in widths if width % 64):
        raise UserError(
            f"bitsandbytes cannot generate from NF4 on a CPU where widths are no multiples of 64, and {base} has "
            f"{odd[0]}. Use a GPU, or the same numbers unpacked: -M precision=nf4_dequantised"
        )
