"""Which processes there are, for tests that count what is left of them."""

import os
import time
from collections.abc import Sequence
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """All descendants of a process, those nearest first (Linux)."""
    children: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(child) for child in listed.read_text().split()]
    return children + [grandchild for child in children for grandchild in children_of(child)]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.parent.is_dir() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_gone(pids: Sequence[int], seconds: float = 20.0) -> bool:
    """Whether all of these processes end within so many seconds."""
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
