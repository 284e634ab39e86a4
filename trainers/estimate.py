"""What a run will need, before anything is loaded: memory, and time on the device that is there.

Memory is counted on the base's shapes, under the plan that training itself would choose. Time is the arithmetic, at the
rate of a matrix product measured here and now, and a fixed time a layer and pass for everything else: it is rough.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.passes.batches import OPTIMIZER_BYTES, BatchPlan, activation_bytes, capturable, plan_batches

if TYPE_CHECKING:
    from em_tasks.trainers.data.prepare import Prepared
    from em_tasks.trainers.run.recipe import Recipe

WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "nf4_dequantised": 2.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes a weight of a linear layer. NF4 has a byte for every 64 weights beside it, and fp32 for 256 of those."""
CONTEXT = 2**30
"""Bytes of a card that CUDA and its libraries take, where the card is not here to be asked."""
LAYER_SECONDS = 2.6e-3
"""Seconds a layer and pass that are no arithmetic, twice as many where layers are recomputed: what the times of
docs/performance.md leave beside the arithmetic (3.0 ms at 1B, 2.6 at 3B, 2.3 at 8B)."""
RECORDED_SECONDS = 1.4e-3
"""The same where passes are recorded (1.1 ms at 1B, 1.6 at 8B)."""


@dataclass(frozen=True)
class Estimate:
    """What a run will need.

    Attributes:
        trainable: Parameters of the adapter.
        batches: How the rows of a step will pass through the model.
        memory: Peak bytes on the device.
        available: Bytes that the device has, if it is a GPU.
        device: Its name.
        seconds: Training time; None for a device that is not here.
        base: Bytes that the base takes of the memory.
        passing: Bytes that a pass takes of it, once.
    """

    trainable: int
    batches: BatchPlan
    memory: int
    available: int | None
    device: str
    seconds: float | None
    base: int
    passing: int


@dataclass(frozen=True)
class Shapes:
    """What a recipe's base and adapter are, counted without weights.

    Attributes:
        config: The base's transformers configuration.
        linear: Weights of its linear layers, the head left out.
        base: Bytes that it takes at the recipe's precision.
        trainable: Parameters of the adapter.
    """

    config: Any
    linear: int
    base: int
    trainable: int


@dataclass(frozen=True)
class Device:
    """A device that is planned for.

    Attributes:
        name: For people.
        available: Bytes that it has, if it is a GPU.
        free: Bytes of them that are free; None on a CPU.
    """

    name: str
    available: int | None
    free: int | None


def shapes_of(recipe: "Recipe") -> Shapes:
    """Counts a recipe's base and adapter.

    Raises:
        UserError: The base is not there, or the recipe does not fit it.
    """
    import torch

    from em_tasks.trainers.adapter import empty_model

    model = empty_model(recipe)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    linear = sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and not name.endswith("lm_head")
    )
    others = sum(parameter.numel() for parameter in model.parameters()) - linear - trainable
    base = int(linear * WEIGHT_BYTES[recipe.precision] + others * WEIGHT_BYTES["fp32" if _is_fp32(recipe) else "bf16"])
    return Shapes(model.config, linear, base, trainable)


def planned_device(device_memory: float | None) -> Device:
    """The device that is here, or a GPU of `device_memory` GiB."""
    import torch

    if device_memory is not None:
        available = int(device_memory * 2**30)
        return Device(f"a GPU of {device_memory:g} GiB", available, available - CONTEXT)
    if torch.cuda.is_available():
        free = torch.cuda.mem_get_info(0)[0]
        return Device(torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory, free)
    return Device("the CPU", None, None)


def estimate(prepared: "Prepared", device_memory: float | None = None) -> Estimate:
    """Estimates memory and time of a run in one process.

    Args:
        prepared: The recipe with its rows and schedule.
        device_memory: Plan for a GPU with so many GiB instead of the device that is here.

    Raises:
        UserError: The base is not there.
        UserError: The run does not fit into the device's memory, or the recipe does not fit the base.
    """
    recipe, rows, shapes = prepared.recipe, prepared.encoded.rows, shapes_of(prepared.recipe)
    device = planned_device(device_memory)
    held = shapes.base + (4 + OPTIMIZER_BYTES) * shapes.trainable
    free = None if device.free is None else device.free - held
    if free is not None and free <= 0:
        raise UserError(
            f"The base in {recipe.precision} and its adapter take {held / 2**30:.1f} GiB, which {device.name} does not "
            "have free. Set precision: nf4, or use a larger GPU."
        )
    recorded = capturable(recipe.precision, 1)
    batches = plan_batches(rows, shapes.config, recipe.effective_batch, free, capturable=recorded)
    passing = activation_bytes(rows, shapes.config, batches.rows, checkpointing=batches.checkpointing)
    memory = held + (2 if batches.captured else 1) * passing
    seconds = None if device_memory is not None else _seconds(prepared, shapes, batches)
    return Estimate(shapes.trainable, batches, memory, device.available, device.name, seconds, shapes.base, passing)


def _seconds(prepared: "Prepared", shapes: Shapes, batches: BatchPlan) -> float:
    """Training time on the device that is here."""
    operations = operations_of(prepared, shapes, checkpointing=batches.checkpointing)
    passes = prepared.schedule.total_steps * batches.accumulation
    each = (RECORDED_SECONDS if batches.captured else LAYER_SECONDS) * (2 if batches.checkpointing else 1)
    return seconds_of(operations, passes, shapes, prepared.recipe, each)


def operations_of(prepared: "Prepared", shapes: Shapes, *, checkpointing: bool) -> float:
    """Operations of a whole run.

    Forward, and backward through a frozen base, are 4 operations a weight and token; recomputing is 2 more. The head
    sees labelled tokens alone.
    """
    encoded, config = prepared.encoded, shapes.config
    head = 4 * int(config.vocab_size) * int(config.hidden_size) * encoded.labelled
    operations = (6 if checkpointing else 4) * shapes.linear * encoded.tokens + head
    return float(prepared.schedule.epochs * operations)


def seconds_of(operations: float, passes: int, shapes: Shapes, recipe: "Recipe", each: float) -> float:
    """Seconds that so many operations in so many passes take on the device that is here, with `each` for a layer."""
    layers = passes * int(shapes.config.num_hidden_layers)
    return operations / _matrix_rate(fp32=_is_fp32(recipe)) + layers * each


def _matrix_rate(*, fp32: bool) -> float:
    """Operations a second of a matrix product on this device."""
    import torch

    device, size = ("cuda", 4096) if torch.cuda.is_available() else ("cpu", 512)
    matrix = torch.randn(size, size, device=device, dtype=torch.float32 if fp32 else torch.bfloat16)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(4):
            product = matrix @ matrix
        float(product[0, 0])  # A GPU has to be done to answer.
        seconds.append((time.perf_counter() - began) / 4)
    return float(2 * size**3 / min(seconds))


def _is_fp32(recipe: Any) -> bool:
    return bool(recipe.precision == "fp32")
