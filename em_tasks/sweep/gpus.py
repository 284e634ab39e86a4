"""Processes and GPUs: how many processes a sweep is worth, which GPU each sees, and what it may take of it.

A base with its checkpoints is served by one process as fast as a GPU goes. But Inspect takes longer for an answer, in
Python and so on one core, than a GPU does, and processes that share a GPU share that.
"""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace

from em_tasks.sweep.plan import Job, shared_out

ANSWER_SECONDS = 0.025
"""Of a core for an answer, judged (docs/performance.md)."""
START_SECONDS = 15.0
"""Until a process writes its first answer: libraries, and the base from the disk."""
ROOM = 4 * 2**30
"""Bytes of a GPU that a process needs beside its base and its rows: CUDA itself, adapters, prompts being read."""
ROWS = 0.7
"""Bytes for rows, as a share of the base's: some 200 rows of 320 tokens over 3B or 8B. Fewer hardly shorten a step."""
LEFT_FREE = 0.1
"""Of a GPU's memory, where processes share it."""


def processes_worth(jobs: Sequence[Job]) -> int | None:
    """How many processes at a time are worth starting for what is to do; None for one a GPU, or one without GPUs.

    A job is a process in any case; more than that are for Inspect's work alone, and each must have enough of it.
    """
    free = free_memory()
    if not jobs or not free or any(job.options.engine == "vllm" for job in jobs):
        return None
    work = round(sum(job.answers for job in jobs) * ANSWER_SECONDS / START_SECONDS)
    wanted = min(max(work, len(jobs)), sum(len(job.subjects) for job in jobs), (os.cpu_count() or 1) - 1)
    for each in range(-(-wanted // len(free)), 1, -1):
        if _largest_together(shared_out(jobs, each * len(free), 1), each) <= (1 - LEFT_FREE) * min(free):
            return each * len(free)
    return len(free)


def _largest_together(jobs: Sequence[Job], each: int) -> int:
    """Bytes that so many of the jobs need on one GPU at most."""
    return sum(sorted(map(needed_bytes, jobs))[-each:])


def needed_bytes(job: Job) -> int:
    """Bytes of its GPU that a job's process needs."""
    return round((1 + ROWS) * job.base_bytes) + ROOM


def gpu_slots(jobs: int | None) -> list[dict[str, str]]:
    """The environments of so many processes at a time, one a GPU unless given: each sees one GPU, in turn."""
    gpus = visible_gpus()
    count = jobs or max(1, len(gpus))
    if len(gpus) < 2:
        return [{} for _ in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[n % len(gpus)]} for n in range(count)]


def with_gpu_shares(jobs: Sequence[Job], slots: Sequence[dict[str, str]]) -> list[Job]:
    """Jobs with the share of its GPU's memory that each may take: more where the base is larger, whose rows are too.

    A tenth is left where several share a GPU, and what none of these jobs takes is kept for jobs that come later.
    """
    each = -(-len(slots) // len({slot.get("CUDA_VISIBLE_DEVICES") for slot in slots}))
    if each == 1 or not jobs:
        return list(jobs)
    later = max(0, each - len(jobs)) * max(map(needed_bytes, jobs))
    together = _largest_together(jobs, each) + later
    return [replace(job, gpu_share=(1 - LEFT_FREE) * needed_bytes(job) / together) for job in jobs]


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that processes started here may use, as CUDA_VISIBLE_DEVICES names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [line[0] for line in _nvidia_smi("index")]


def free_memory() -> list[int]:
    """Bytes that are free on each of `visible_gpus`; empty where that cannot be told."""
    free = _memory("free")
    return list(free.values()) if len(free) == len(visible_gpus()) else []


def gpu_memory() -> dict[str, int]:
    """Bytes of each of `visible_gpus`; those of which the driver's tool does not say are left out."""
    return _memory("total")


def _memory(which: str) -> dict[str, int]:
    listed = _nvidia_smi(f"index,uuid,memory.{which}")
    sizes = {name: mebibytes for index, uuid, mebibytes in listed for name in (index, uuid)}
    return {name: int(sizes[name]) * 2**20 for name in visible_gpus() if sizes.get(name, "").isdecimal()}


def _nvidia_smi(fields: str) -> list[list[str]]:
    """What the driver's tool says of each GPU; empty where there is none."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    return [[part.strip() for part in line.split(",")] for line in lines if line.strip()]


def threads_for(jobs: int) -> int:
    """CPU threads for each of so many processes: `OMP_NUM_THREADS` where it is set, else a fair share of the cores."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // jobs))
