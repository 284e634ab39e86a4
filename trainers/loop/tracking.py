"""TensorBoard and Weights & Biases, their files in the run's folder."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from em_tasks.plugins.errors import UserError

TRACKERS = ("tensorboard", "wandb")
FOLDER = "tracking"
Track = Callable[[int, Mapping[str, float]], object]
"""Told a step and its figures."""


def need_trackers(track: Sequence[str]) -> None:
    """Refuses trackers that are unknown or not installed.

    Raises:
        UserError: One is.
    """
    if unknown := [name for name in track if name not in TRACKERS]:
        raise UserError(f"There is no tracker {', '.join(unknown)}. Choose of: {', '.join(TRACKERS)}.")
    if missing := [name for name in track if find_spec(name) is None]:
        raise UserError(f"{', '.join(missing)} is not installed. Install it: pip install 'em-tasks[tracking]'.")


@contextmanager
def tracked_in(run: Path, track: Sequence[str]) -> Iterator[Track]:
    """What the losses are told to meanwhile: trackers that write into `tracking/` of a run.

    Their own variables (`WANDB_PROJECT`, ...) hold.

    Raises:
        UserError: Weights & Biases cannot be reached or does not know the user.
    """
    folder = run / FOLDER
    with ExitStack() as opened:
        tellers: list[Track] = []
        if track:
            folder.mkdir(exist_ok=True)
        if "tensorboard" in track:
            from torch.utils.tensorboard import SummaryWriter

            writer = opened.enter_context(SummaryWriter(str(folder)))
            tellers.append(lambda step, values: [writer.add_scalar(f"train/{k}", v, step) for k, v in values.items()])
        if "wandb" in track:
            import wandb

            try:
                tracked = wandb.init(project=os.environ.get("WANDB_PROJECT", "em-tasks"), name=run.name, dir=folder)
            except wandb.Error as error:
                raise UserError(
                    f"Weights & Biases took no run: {error} Log in (wandb login), or set WANDB_MODE=offline."
                ) from error
            opened.callback(tracked.finish)
            tellers.append(lambda step, values: tracked.log({f"train/{k}": v for k, v in values.items()}, step=step))

        def tell(step: int, values: Mapping[str, float]) -> None:
            for teller in tellers:
                teller(step, {name: value for name, value in values.items() if name != "step"})

        yield tell
