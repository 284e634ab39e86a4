"""What several organisms will need that are trained at once, before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.order import rows_of_epoch
from em_tasks.trainers.estimate import (
    LAYER_SECONDS,
    RECORDED_SECONDS,
    operations_of,
    planned_device,
    seconds_of,
    shapes_of,
)
from em_tasks.trainers.together.plan import JointPlan, plan_together

if TYPE_CHECKING:
    from em_tasks.trainers.data.prepare import Prepared

LOOKED_AT = 50
"""Steps whose parts are compared for how much has to be filled up."""


@dataclass(frozen=True)
class JointEstimate:
    """What organisms will need together.

    Attributes:
        trainable: Parameters of each adapter.
        plan: How a step passes through the base.
        filled: Share of the tokens in a pass that fill parts up to the longest.
        memory: Peak bytes on the device.
        available: Bytes that the device has, if it is a GPU.
        device: Its name.
        seconds: Training time until the last has ended; None for a device that is not here.
    """

    trainable: list[int]
    plan: JointPlan
    filled: float
    memory: int
    available: int | None
    device: str
    seconds: float | None


def estimate_together(prepared: Sequence["Prepared"], device_memory: float | None = None) -> JointEstimate:
    """Estimates memory and time of organisms in one process.

    Args:
        prepared: Their recipes with rows and schedules, of one base and precision.
        device_memory: Plan for a GPU with so many GiB instead of the device that is here.

    Raises:
        UserError: The base is not there or does not fit, or they do not fit together: how many would is said.
    """
    device, kinds = planned_device(device_memory), {each.recipe.lora: each.recipe for each in prepared}
    shapes = {lora: shapes_of(recipe) for lora, recipe in kinds.items()}
    trainable = [shapes[each.recipe.lora].trainable for each in prepared]
    first = shapes[prepared[0].recipe.lora]
    free = None if device.free is None else device.free - first.base
    if free is not None and free <= 0:
        raise UserError(
            f"The base in {prepared[0].recipe.precision} takes {first.base / 2**30:.1f} GiB, which {device.name} does "
            "not have free. Set precision: nf4, or use a larger GPU."
        )
    plan, share = plan_together(prepared, trainable, first.config, free), filled(prepared)
    seconds = None
    if device_memory is None:
        again = plan.checkpointing
        operations = sum(operations_of(each, first, checkpointing=again) for each in prepared) / (1 - share)
        passes = max(each.schedule.total_steps for each in prepared) * plan.accumulation
        each = (RECORDED_SECONDS if plan.captured else LAYER_SECONDS) * (2 if again else 1)
        seconds = seconds_of(operations, passes, first, prepared[0].recipe, each)
    return JointEstimate(trainable, plan, share, first.base + plan.memory, device.available, device.name, seconds)


def filled(prepared: Sequence["Prepared"]) -> float:
    """Share of the tokens of their first common steps that fill each part up to the longest."""
    steps = min(LOOKED_AT, *(each.schedule.steps_per_epoch for each in prepared))
    lengths = []
    for each in prepared:
        rows, batch = each.encoded.rows, each.recipe.effective_batch
        order = rows_of_epoch(each.recipe.seed, 0, len(rows), steps * batch)
        tokens = [len(rows[row]["input_ids"]) for row in order]
        lengths.append([sum(tokens[start : start + batch]) for start in range(0, len(tokens), batch)])
    passing: int = len(prepared) * sum(max(step) for step in zip(*lengths, strict=True))
    return 1 - sum(map(sum, lengths)) / passing
