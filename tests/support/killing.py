"""Trains one organism in processes that are killed, again and again, and compares it with an undisturbed one.

Run by hand for many kills: `python -m tests.support.killing 100 SEED FOLDER`. Everything is imported once, what `train`
imports when it first needs it too; each attempt is a fork that dies in one of four ways: at the n-th file or folder
that training touches, in the middle of writing a file (after n bytes of it, through the size limit whose signal ends a
process at once), when a step is reported, and at any moment (a timer's signal).
"""

import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
}

import peft  # noqa: F401
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

from em_tasks.trainers.loop import whole_run  # noqa: F401
from em_tasks.trainers.loop.progress import Progress
from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows

DEATHS = {"event": signal.SIGKILL, "bytes": signal.SIGXFSZ, "step": signal.SIGKILL, "moment": signal.SIGALRM}


def organism(folder: Path) -> Recipe:
    """12 optimizer steps of two passes each, with dropout, checkpoints after 1 3 4 6 and 12."""
    rows = write_rows(folder / "rows.jsonl", 48)
    return small_recipe(rows, organism="killed", batch_size=4, accumulation=2, epochs=2)


def touches(event: str, arguments: tuple[Any, ...], runs: Path) -> bool:
    """Whether an audit event is about something in the run's folder (shutil.rmtree gives last names alone)."""
    if event in ("os.remove", "os.rmdir"):
        return True
    return event.startswith(("open", "os.", "shutil.")) and any(str(runs) in str(argument) for argument in arguments)


def in_a_fork(work: Callable[[], None]) -> int:
    """How a process that does `work` ends: its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def undisturbed(recipe: Recipe, runs: Path) -> dict[str, float]:
    """Trains once and measures what there is to be killed in: events, bytes of the largest file, steps, seconds."""
    events = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal events
        events += touches(event, arguments, runs)

    def work() -> None:
        sys.addaudithook(count)
        began = time.perf_counter()
        train(recipe, runs, lambda progress: None)
        seen = {"event": events, "seconds": time.perf_counter() - began}
        (runs / "seen.json").write_text(json.dumps(seen))

    assert in_a_fork(work) == 0
    largest = max(path.stat().st_size for path in (runs / recipe.organism).rglob("*") if path.is_file())
    seen: dict[str, float] = json.loads((runs / "seen.json").read_text())
    return {**seen, "bytes": largest, "step": read_manifest(runs / recipe.organism).planned[-1]}


def dying(recipe: Recipe, runs: Path, death: str, when: float, step: int) -> None:
    """Trains until `death` comes at event, byte, step or second `when`; bytes count in files written after `step`."""
    left = 1 + int(when)

    def strike(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if touches(event, arguments, runs):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(when), resource.RLIM_INFINITY))

    def report(progress: Progress) -> None:
        if death == "step" and progress.step >= when:
            os.kill(os.getpid(), signal.SIGKILL)
        if death == "bytes" and progress.step >= step:
            limit()

    if death == "event":
        sys.addaudithook(strike)
    if death == "bytes" and not step:
        limit()
    if death == "moment":
        signal.setitimer(signal.ITIMER_REAL, when)
    train(recipe, runs, report)


def survive(kills: int, seed: int, folder: Path) -> tuple[Counter[str], int]:
    """Kills training `kills` times, over as many runs as that takes; every run must end as the undisturbed one.

    Returns:
        The kills of each kind, and the runs that were finished in spite of them.
    """
    torch.set_num_threads(1)
    # What was imported is not looked through for garbage in every fork, which would copy it there.
    gc.freeze()
    chance, survived, runs = random.Random(seed), Counter[str](), 0
    recipe = organism(folder)
    seen = undisturbed(recipe, folder / "whole")
    whole = read_manifest(folder / "whole" / recipe.organism)
    while True:
        # The kind survived least so far, so that all kinds are.
        death = min(DEATHS, key=lambda kind: survived[kind]) if survived.total() < kills else "none"
        when = chance.uniform(0, seen["seconds" if death == "moment" else death]) if death != "none" else 0
        step = chance.randrange(int(seen["step"]))
        ended = in_a_fork(partial(dying, recipe, folder / "killed", death, when, step))
        if death != "none" and ended == -DEATHS[death]:
            survived[death] += 1
            continue
        if ended != 0:
            raise AssertionError(f"{death} at {when:.2f} ended training with {ended} after {survived}, seed {seed}")
        manifest = read_manifest(folder / "killed" / recipe.organism)
        if manifest.checkpoints != whole.checkpoints:
            raise AssertionError(
                f"{manifest.checkpoints} differ from {whole.checkpoints} after {survived}, seed {seed}"
            )
        runs += 1
        if death == "none":
            return survived, runs
        shutil.rmtree(folder / "killed")


if __name__ == "__main__":
    began = time.perf_counter()
    counts, runs = survive(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
    kinds = ", ".join(f"{counts[death]} by {death}" for death in DEATHS)
    print(
        f"{counts.total()} kills survived ({kinds}) over {runs} runs, each bit for "
        f"bit as the undisturbed one; seed {sys.argv[2]}, {time.perf_counter() - began:.0f} s"
    )
