"""NVIDIA's multi-process server for the time of a sweep: processes that share a GPU run side by side and not in turns.

It is a process of ours in a folder of ours, changes no setting of the GPU, and ends with the sweep, however that ends.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from em_tasks.plugins.checkpoint_model.engines import guard

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
USUAL_PIPES = Path("/tmp/nvidia-mps")
"""Where NVIDIA has one that nobody gave a folder."""
PATIENCE = 20.0
"""Seconds for the server to come up, and again for CUDA to begin under it."""
BEGIN = "import ctypes, sys; sys.exit(ctypes.CDLL('libcuda.so.1').cuInit(0) != 0)"


@contextmanager
def side_by_side(slots: Sequence[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Runs the server while the block runs, where several processes share the one GPU and it can be had.

    Args:
        slots: The environments of the processes, from `gpu_slots`.

    Yields:
        What goes into their environments; nothing where they take turns, or find a server of the user's.
    """
    control = shutil.which(CONTROL)
    alike = len({slot.get("CUDA_VISIBLE_DEVICES") for slot in slots}) == 1
    if control is None or len(slots) < 2 or not alike or PIPES in os.environ or (USUAL_PIPES / "control").exists():
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="em-mps-") as folder:
        environment = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        # It sees all GPUs: those that it sees alone would have other numbers for the processes.
        seeing_all = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        with (Path(folder) / "output.txt").open("wb") as output:
            server = subprocess.Popen(
                [sys.executable, guard.__file__, "--folder", folder, control, "-f"],
                stdin=subprocess.PIPE, stdout=output, stderr=output, env=seeing_all | environment,
            )  # fmt: skip
        assert server.stdin is not None
        try:
            yield environment if _serves(server, environment) else {}
        finally:
            with suppress(OSError, subprocess.TimeoutExpired):
                # As NVIDIA has it ended; the guard sees to it where it does not listen, or this process is killed.
                subprocess.run(
                    [control], input=b"quit\n", env=seeing_all | environment, timeout=PATIENCE, capture_output=True,
                    check=False,
                )  # fmt: skip
            server.stdin.close()
            server.wait()


def _serves(server: "subprocess.Popen[bytes]", environment: dict[str, str]) -> bool:
    """Whether the server comes up and CUDA begins under it; where it does not, processes go without."""
    pipe, deadline = Path(environment[PIPES]) / "control", time.monotonic() + PATIENCE
    while not pipe.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    begin = [sys.executable, "-c", BEGIN]
    try:
        return (
            subprocess.run(
                begin, env={**os.environ, **environment}, timeout=PATIENCE, capture_output=True, check=False
            ).returncode
            == 0
        )
    except subprocess.TimeoutExpired:
        return False
