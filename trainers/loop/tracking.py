"""TensorBoard and Weights & Biases through the Trainer's own switch, their files in the run's folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from em_tasks.plugins.errors import UserError

TRACKERS = ("tensorboard", "wandb")
FOLDER = "tracking"


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
def tracked_in(run: Path, track: Sequence[str]) -> Iterator[None]:
    """Has trackers write into `tracking/` of a run meanwhile. Their own variables (`WANDB_PROJECT`, ...) still hold.

    Raises:
        UserError: Weights & Biases cannot be reached or does not know the user.
    """
    folder = run / FOLDER
    if track:
        folder.mkdir(exist_ok=True)
    before = os.environ.get("TENSORBOARD_LOGGING_DIR")
    if before is None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
    if "wandb" in track:
        import wandb

        # The Trainer logs into the run that is open; left to itself it would log all organisms of a process into one.
        try:
            wandb.init(project=os.environ.get("WANDB_PROJECT", "em-tasks"), name=run.name, dir=folder)
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases took no run: {error} Log in (wandb login), or set WANDB_MODE=offline."
            ) from error
    try:
        yield
    finally:
        if before is None:
            del os.environ["TENSORBOARD_LOGGING_DIR"]
        if "wandb" in track:
            wandb.finish()
