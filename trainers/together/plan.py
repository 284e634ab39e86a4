"""How the steps of several organisms are cut into passes by the memory that is there, and how many of them fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.passes.batches import OPTIMIZER_BYTES, SMALLEST_PASS, USABLE, capturable, most_tokens, pass_bytes
from em_tasks.trainers.passes.packing import MULTIPLE

if TYPE_CHECKING:
    from em_tasks.trainers.data.prepare import Prepared

ADAPTER_BYTES = 2 * 4 + OPTIMIZER_BYTES
"""Bytes that a trained number takes, with its copy among the others', its gradient and AdamW's two averages."""


@dataclass(frozen=True)
class JointPlan:
    """How a step of several organisms is trained.

    Attributes:
        accumulation: Passes a step, each with an equal share of every organism's rows.
        checkpointing: Compute each layer again in the backward pass instead of keeping what it computed.
        compiled: Compile the layers.
        memory: Estimated bytes of a pass, twice where passes are recorded, and of all adapters.
        captured: Record the passes and replay them, each filled up to one of a few sizes.
    """

    accumulation: int
    checkpointing: bool
    compiled: bool
    memory: int
    captured: bool = False


def plan_together(
    prepared: Sequence["Prepared"], trainable: Sequence[int], config: Any, free: int | None, *, recording: bool = True
) -> JointPlan:
    """Chooses the fastest plan that fits; passes are recorded as those of a single run are, see `plan_batches`.

    Args:
        prepared: The organisms, which are trained at the same time.
        trainable: Numbers in each one's adapter.
        config: The base's transformers configuration.
        free: Bytes free on the GPU beside the base; None on a CPU.
        recording: Whether passes may be recorded at all.

    Raises:
        UserError: They do not fit; the message says how many of them, in their order, would.
    """
    if free is None:
        memory = ADAPTER_BYTES * sum(trainable) + _pass_bytes(prepared, config, 1, checkpointing=False)
        return JointPlan(1, checkpointing=False, compiled=False, memory=memory)
    plan = _fitting(prepared, trainable, config, free, recording=recording)
    if plan is not None:
        return plan
    fit = next(
        (
            count
            for count in range(len(prepared) - 1, 0, -1)
            if _fitting(prepared[:count], trainable[:count], config, free, recording=recording)
        ),
        0,
    )
    raise UserError(
        f"{len(prepared)} organisms do not fit together into the {free / 2**30:.1f} GiB of GPU memory that the base "
        f"leaves: "
        + (
            f"the first {fit} of them do. Give as many to one command, or use a larger GPU."
            if fit
            else "not even the first of them alone does. Set precision: nf4, lower max_length, or use a larger GPU."
        )
    )


def _fitting(
    prepared: Sequence["Prepared"], trainable: Sequence[int], config: Any, free: int, *, recording: bool
) -> JointPlan | None:
    batches = [each.recipe.effective_batch for each in prepared]
    common, rows, adapters = gcd(*batches), sum(batches), ADAPTER_BYTES * sum(trainable)
    parts = [count for count in range(1, common + 1) if common % count == 0]
    large = [(count, False) for count in parts if rows // count >= min(SMALLEST_PASS, rows)]
    for count, checkpointing in [*large, *((count, True) for count in parts)]:
        passing = _pass_bytes(prepared, config, count, checkpointing=checkpointing)
        memory = adapters + passing
        if memory <= USABLE * free:
            whole = recording and count == 1 and not checkpointing and capturable(prepared[0].recipe.precision, 1)
            captured = whole and memory + passing <= USABLE * free
            return JointPlan(count, checkpointing, compiled=True, memory=memory + captured * passing, captured=captured)
    return None


def _pass_bytes(prepared: Sequence["Prepared"], config: Any, parts: int, *, checkpointing: bool) -> int:
    most = [most_tokens(each.encoded.rows, each.recipe.effective_batch // parts) for each in prepared]
    longest = -(-max(tokens for tokens, _ in most) // MULTIPLE) * MULTIPLE
    labelled = sum(count for _, count in most)
    return pass_bytes(len(prepared) * longest, labelled, config, checkpointing=checkpointing)
