"""Work for processes of a pool, in a module that they can import; and a program that runs some, to be killed itself."""

import errno
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from em_tasks.plugins.errors import UserError
from em_tasks.sweep.pool import Pool, Work

Send = Callable[[Any], None]


def double(number: int, send: Send) -> int:
    send(f"doubling {number}")
    return 2 * number


def see_gpu(send: Send) -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def see_thresholds(send: Send) -> tuple[int, int, int]:
    return gc.get_threshold()


def be_killed(send: Send) -> None:
    send("41 answers came")
    os.kill(os.getpid(), signal.SIGKILL)


def fail(kind: str, send: Send) -> None:
    if kind == "user":
        raise UserError("The base is gone. Bring it back.")
    if kind == "disk":
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/logs/x.eval")
        raise RuntimeError("a library's own words") from full
    raise ZeroDivisionError("a fault of ours")


def stay(folder: str, send: Send) -> None:
    """Starts a process of its own, says who both are, and stays until it is ended."""
    child = subprocess.Popen(["sleep", "600"])
    path = Path(folder) / "pids"
    path.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
    path.with_suffix(".new").rename(path)
    send("here")
    time.sleep(600)


if __name__ == "__main__":
    Pool([{}], lambda message: print(message, flush=True)).run([Work("staying", stay, (sys.argv[1],))], lambda e: None)
