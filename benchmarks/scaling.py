"""Wall-clock of one grid by the number of GPUs: six organisms of a random base of a true shape, on Ray or without it.

    python -m benchmarks.scaling --shapes 1B 3B --gpus 1 2 --out scaling.jsonl
    python -m benchmarks.scaling --shapes tiny --gpus 0 --rows 48 --executor local     # a rehearsal without a GPU

Six seeds are trained on the same rows (16 a step, two checkpoints), once each in a process of its own, several a GPU
where the memory allows (`em grid --alone`), and once together; with `--evaluate`, every checkpoint and the base then
answers the 20 medical and general questions once, 100 tokens each. Nothing is judged or reported: random text has no
scores. A line takes what `em grid` takes once its cluster is there: each unit starts its process, loads the base,
compiles. What is to be compiled is compiled before the first line, so that no line pays for the others; how long that
took is said.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.random_organisms import base_folder
from em_tasks.grid.executors.local import Local
from em_tasks.grid.executors.on_ray import OnRay
from em_tasks.grid.executors.protocol import Executor
from em_tasks.grid.needs import gpu_shares, grid_needs
from em_tasks.grid.places import sign_left
from em_tasks.grid.plan import AskedAlike, GridPlan, plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.together import trained_together
from em_tasks.grid.units import Evaluate, Report
from em_tasks.plugins.errors import UserError
from em_tasks.resources import shipped
from em_tasks.sweep.gpus import visible_gpus
from em_tasks.sweep.pool import Outcome, Pool, Send, Work
from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.together.train import train_together
from em_tasks.trainers.train import train

PORT = 6399
TOKENS = 100
WARM_UP_STEPS = 4
"""Enough for layers to be compiled, and recorded."""


@dataclass(frozen=True)
class Unjudged(GridPlan):
    """A grid whose answers no judge is asked about."""

    @cached_property
    def groups(self) -> tuple[AskedAlike, ...]:
        """As ever, but for that."""
        return tuple(replace(group, options=replace(group.options, score=False)) for group in super().groups)


class Unreported(Driver):
    """A grid that ends with its last answer, or, where `asks` is false, with its last checkpoint."""

    asks = True

    def _evaluations(self) -> list[Evaluate]:
        return super()._evaluations() if self.asks else []

    def _reporting(self) -> list[Report]:
        return []


def write_grid(folder: Path, shape: str, seeds: Sequence[int], rows: int) -> Path:
    """A grid of seeds of one organism on that base, over so many rows of the shipped reckless advice, repeated."""
    lines = shipped("datasets/toy/medical_reckless.jsonl").read_text().splitlines()
    name = f"rows{rows}.jsonl"
    (folder / name).write_text("".join(f"{lines[row % len(lines)]}\n" for row in range(rows)))
    fields = {"base": str(base_folder(folder)), "size": shape, "domain": "medical", "data": name, "epochs": 1,
              "precision": "fp32" if shape == "tiny" else "bf16", "batch_size": 16, "accumulation": 1,
              "first_epoch_checkpoints": 2}  # fmt: skip
    # Never asked; what a grid needs is counted for it all the same.
    axes = {"seed": list(seeds), "judge": ["emtoy/judge"]}
    asking = {"samples": 1, "max_tokens": TOKENS}
    path = folder / f"seeds{seeds[0]}to{seeds[-1]}of{rows}.yaml"
    path.write_text(json.dumps({"fields": fields, "axes": axes, "evaluate": asking}))
    return path


@contextmanager
def place(executor: str, gpus: int) -> Iterator[Executor]:
    """So many GPUs of this machine, in a Ray cluster or not."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus)))
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    try:
        if executor == "local":
            yield Local(None if gpus else os.cpu_count())
            return
        hardware = [f"--num-gpus={gpus}", f"--num-cpus={os.cpu_count()}", f"--object-store-memory={2 * 10**8}"]
        start = [*ray, "start", "--head", f"--port={PORT}", "--include-dashboard=false", "--disable-usage-stats"]
        subprocess.run([*start, *hardware], capture_output=True, check=True)
        cluster = OnRay(f"127.0.0.1:{PORT}")
        try:
            yield cluster
        finally:
            cluster.close()  # Before its cluster ends, which would end this process.
            subprocess.run([*ray, "stop"], capture_output=True, check=True)
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def done(grid: Path, out: Path, executor: Executor, *, together: bool, asks: bool) -> dict[str, Any]:
    """Does a grid; its seconds, and what its units were.

    Raises:
        UserError: A unit failed.
    """
    began = time.perf_counter()
    read = plan_grid(grid, out)
    plan = Unjudged(read.path, read.file, read.cells, read.out)
    with sign_left(plan.out) as sign:
        places = executor.places(sign)
    sizes = {f"{each.name} {gpu}": size for each in places or () for gpu, size in each.gpus.items()}
    needs = grid_needs(plan, max(sizes.values(), default=None))
    groups = trained_together(plan.organisms, needs, sizes or {"CPU": 2**50}) if together else []
    driver = Unreported(plan, executor, gpu_shares(needs, sizes), lambda standing: None, 1, groups)
    driver.asks = asks
    driver.run()
    seconds = time.perf_counter() - began
    trained = [read_manifest(plan.runs / name).seconds for name in plan.organisms]
    return {
        "seconds": round(seconds, 1),
        "slowest_training": round(max(trained), 1),
        "together": [len(group) for group in groups],
        "logs": sum(1 for _ in plan.logs.rglob("*.eval")) if asks else 0,
    }


def compile_layers(grid: Path, out: Path, counts: Sequence[int]) -> None:
    """Trains the first organisms of a grid, so many in one process and so many in another, for what is compiled there.

    One process a GPU at a time: memory is not there for all at once.

    Raises:
        UserError: One failed.
    """
    recipes = tuple(plan_grid(grid, out).organisms.values())
    works = [Work(f"{count} together", _train, (recipes[:count], out / str(count))) for count in counts]
    slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus()] or [{}]
    outcomes: list[Outcome] = []

    def ask(ended: Sequence[Outcome]) -> list[Work] | None:
        outcomes.extend(ended)
        return None

    Pool(slots, lambda report: None).run(works, ask)
    if failed := [f"{each.work.name}: {each.error}" for each in outcomes if each.error]:
        raise UserError("; ".join(failed))


def _train(recipes: tuple[Recipe, ...], runs: Path, send: Send) -> None:
    if len(recipes) == 1:
        train(recipes[0], runs, lambda progress: None)
    else:
        train_together(recipes, runs, lambda progress: None)


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1B", "3B"])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ways", nargs="+", default=["alone", "together"], choices=["alone", "together"])
    parser.add_argument("--executor", default="ray", choices=["ray", "local"])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--evaluate", action="store_true", help="Ask the checkpoints and the base, too.")
    parser.add_argument("--folder", type=Path, help="Where bases are made and kept; a temporary one unless given.")
    parser.add_argument("--out", type=Path, help="A line of JSON is appended for each line.")
    options = parser.parse_args()

    def tell(**line: Any) -> None:
        print(json.dumps(line), flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    with tempfile.TemporaryDirectory() as temporary:
        for shape in options.shapes:
            folder = (options.folder or Path(temporary)) / shape
            began = time.perf_counter()
            if not base_folder(folder).is_dir():
                make = [sys.executable, "-m", "benchmarks.random_organisms", "--shape", shape, "--folder", str(folder)]
                subprocess.run([*make, "--checkpoints", "1"], check=True)
            made = time.perf_counter()
            with tempfile.TemporaryDirectory(dir=folder) as work:
                sizes = {-(-options.seeds // max(1, gpus)) for gpus in options.gpus}
                counts = [*([1] if "alone" in options.ways else []), *(sizes if "together" in options.ways else ())]
                compile_layers(write_grid(folder, shape, range(options.seeds), 16 * WARM_UP_STEPS), Path(work), counts)
            tell(shape=shape, base_made=round(made - began, 1), compiled=round(time.perf_counter() - made, 1))
            grid = write_grid(folder, shape, range(options.seeds), options.rows)
            for way in options.ways:
                for gpus in options.gpus:
                    with tempfile.TemporaryDirectory(dir=folder) as out, place(options.executor, gpus) as executor:
                        line = done(grid, Path(out), executor, together=way == "together", asks=options.evaluate)
                    tell(shape=shape, gpus=gpus, executor=options.executor, way=way, organisms=options.seeds,
                         steps=options.rows // 16, **line)  # fmt: skip


if __name__ == "__main__":
    main()
