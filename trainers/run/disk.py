"""Room on the disk: what a run needs, asked for before it is written, and failing writes told in plain words."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from em_tasks.trainers.run.manifest import MANIFEST

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MARGIN = 16 * 2**20
"""Bytes for configurations, random states, the manifest and the file system's own records."""


def need_room(run: Path, needed: int, what: str) -> None:
    """Refuses to begin what the disk cannot hold.

    Args:
        run: Where it would be written.
        needed: Bytes, without the margin.
        what: What needs them.

    Raises:
        OSError: Fewer are free.
    """
    free = shutil.disk_usage(run).free
    if free < needed + MARGIN:
        raise OSError(
            f"{run} has {free / 1e6:.0f} MB free, and {what} needs {(needed + MARGIN) / 1e6:.0f}. What was saved "
            "stands. Free some space (or move the run to a larger disk and name its new place) and give the same "
            "command again."
        )


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Turns a write that failed for want of room, wherever in torch or safetensors, into an error for the user.

    Raises:
        OSError: It did.
    """
    try:
        yield
    except Exception as error:
        if not _no_room(error):
            raise
        # torch.save notices that a write failed, but not why.
        reason = "a write broke off" if isinstance(error, RuntimeError) else str(error).strip().splitlines()[0]
        raise OSError(
            f"Writing a checkpoint into {run} failed: the disk is full, or a quota or size limit is reached "
            f"({reason}). What {MANIFEST} lists stands. Free some space (df -h shows how much there is) and give the "
            "same command again: it goes on from the last save."
        ) from error


def _no_room(error: Exception) -> bool:
    from safetensors import SafetensorError

    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    if isinstance(error, SafetensorError):
        return any(f"os error {number}" in str(error) for number in NO_ROOM)
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("PytorchStreamWriter", "unexpected pos", "iostream error")
    )
