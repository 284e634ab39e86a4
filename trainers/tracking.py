"""TensorBoard and Weights & Biases through the Trainer's own switch, their files in the run's folder."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

TRACKERS = ("tensorboard", "wandb")
FOLDER = "tracking"


def need_trackers(track: Sequence[str]) -> None:
    """Refuses trackers that are unknown or not installed.

    Raises:
        ValueError: One is.
    """
    if unknown := [name for name in track if name not in TRACKERS]:
        raise ValueError(f"There is no tracker {', '.join(unknown)}. Choose of: {', '.join(TRACKERS)}.")
    if missing := [name for name in track if find_spec(name) is None]:
        raise ValueError(f"{', '.join(missing)} is not installed. Install it: pip install 'em-tasks[tracking]'.")


@contextmanager
def tracked_in(run: Path, track: Sequence[str]) -> Iterator[None]:
    """Has trackers write into `tracking/` of a run meanwhile, unless their own variables name another place."""
    if not track:
        yield
        return
    (run / FOLDER).mkdir(exist_ok=True)
    ours = {
        "TENSORBOARD_LOGGING_DIR": str(run / FOLDER),
        "WANDB_DIR": str(run / FOLDER),
        "WANDB_PROJECT": "em-tasks",
    }
    added = [name for name in ours if name not in os.environ]
    os.environ.update({name: ours[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
