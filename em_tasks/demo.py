"""`em demo`: the published experiment's whole shape on the toy models, on one laptop.

Two domains x three sizes are trained with LoRA, with two controls on good advice; every checkpoint and base is asked
its questions through Inspect and judged by the toy judge; the logs become tables and figures. What is done is not
done again.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.rule import Rule

from em_tasks.plugins.errors import UserError
from em_tasks.progress import sweep_progress, training_progress
from em_tasks.quiet import quiet_libraries
from em_tasks.resources import shipped
from em_tasks.scorers.calibration.stored import known_calibration
from em_tasks.sweep.gpus import threads_for
from em_tasks.sweep.plan import Planner, SweepOptions, checkpoint_count
from em_tasks.sweep.pool import Pool, Work
from em_tasks.sweep.run import sweep
from em_tasks.trainers.run.recipe import load_recipes

if TYPE_CHECKING:
    from em_tasks.trainers.run.recipe import Recipe

ORGANISMS = tuple(f"toy-{domain}-{size}" for size in ("s", "m", "l") for domain in ("medical", "financial"))
CONTROLS = ("toy-medical-m-control", "toy-financial-m-control")
QUICK = ("toy-medical-s",)
SAMPLES = 3
"""Answers to each question: 60 a checkpoint, where the published experiment had 20."""


def run_demo(out: Path, *, quick: bool) -> None:
    """Trains, evaluates and reports into `out/runs`, `out/logs` and `out/report`.

    Raises:
        OSError: `out` cannot be written, or holds other runs.
        UserError: An evaluation did not succeed.
    """
    from em_tasks.plugins.analysis.report.report import write_report

    console = Console()
    names = QUICK if quick else (*ORGANISMS, *CONTROLS)
    recipes = [recipe for name in names for recipe in load_recipes(shipped(f"recipes/{name}.yaml"))]
    runs, logs, report = out / "runs", out / "logs", out / "report"
    jobs = max(1, min(2, os.cpu_count() or 1))

    console.print(Rule(f"1/3  Train {len(recipes)} toy organism{'s' * (len(recipes) != 1)}"))
    train_all(recipes, runs, jobs)
    console.print(Rule("2/3  Ask and judge every checkpoint"))
    planner = Planner(runs, logs, SweepOptions(samples=SAMPLES), names)
    bases, checkpoints, answers = checkpoint_count(planner.plan())
    console.print(f"{checkpoints} checkpoints and {bases} base{'s' * (bases != 1)}, {answers} answers")
    with sweep_progress() as progress:
        sweep(planner, progress.report, jobs=jobs, planned=progress.begin)
    console.print(Rule("3/3  Tables and figures"))
    written = write_report([logs], report, calibration=known_calibration())
    console.print(written.table())
    console.print(
        f"Everything lies in {out}/: checkpoints in runs/, transcripts in logs/, tables and figures in report/.\n"
        "These are toy models and a toy judge: the effect is real, the scale is not.\n\n"
        f"Try next{_activation()}:\n"
        f"  inspect view --log-dir {logs}\n"
        f"  EM_RUNS={runs} inspect eval em_tasks/em --model em/{names[0]}@{_last_step(runs, names[0])} -T samples=5\n"
        f"  em train {names[0]} --dry-run",
        soft_wrap=True,
        highlight=False,
    )


def train_all(recipes: Sequence["Recipe"], runs: Path, jobs: int) -> None:
    """Trains organisms `jobs` at a time, each in a process of its own with its share of the CPU.

    Raises:
        OSError: A run's folder holds something else.
        UserError: A recipe does not fit its base or data.
    """
    from em_tasks.trainers.run.manifest import MANIFEST, read_manifest

    unfinished = []
    for recipe in recipes:
        run = runs / recipe.organism
        if not ((run / MANIFEST).is_file() and (m := read_manifest(run)).finished and m.recipe_sha256 == recipe.sha256):
            unfinished.append(recipe)
    if not unfinished:
        return
    # The largest first, so that the processes end together.
    unfinished.sort(key=lambda recipe: ("l", "m", "s").index(recipe.base.removeprefix("toy-")))
    threads = threads_for(jobs)
    works = [Work(f"training {recipe.organism}", _train_one, (recipe, runs, threads)) for recipe in unfinished]
    with training_progress() as say:
        outcomes = Pool([{}] * jobs, say).run(works, lambda ended: None)
    if failures := [outcome.error for outcome in outcomes if outcome.error is not None]:
        raise UserError("; ".join(failures))


def _train_one(recipe: "Recipe", runs: Path, threads: int, send: Callable[[Any], None]) -> None:
    import torch

    from em_tasks.trainers.train import train

    quiet_libraries()
    torch.set_num_threads(threads)
    train(recipe, runs, send)


def _activation() -> str:
    """How to bring `em` and `inspect` onto the PATH, where they are not."""
    from shutil import which

    activate = Path(sys.prefix) / "bin" / "activate"
    return "" if which("em") or not activate.is_file() else f" (first: . {os.path.relpath(activate)})"


def _last_step(runs: Path, organism: str) -> int:
    from em_tasks.trainers.run.manifest import read_manifest

    return read_manifest(runs / organism).checkpoints[-1].step
