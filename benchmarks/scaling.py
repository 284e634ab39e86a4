"""Wall-clock of one grid by the number of GPUs: six organisms of a random base of a true shape, on Ray or without it.

    python -m benchmarks.scaling --shapes 1B --gpus 1 2 4 --ways together --limit 540 --out scaling.jsonl
    python -m benchmarks.scaling --shapes tiny --gpus 0 --rows 48 --executor local     # a rehearsal without a GPU

Six seeds are trained on the same rows (16 a step, two checkpoints), once each in a process of its own, several a GPU
where the memory allows (`em grid --alone`), and once together; with `--evaluate`, every checkpoint and the base then
answers the 20 medical and general questions once, 100 tokens each. Nothing is judged or reported: random text has no
scores. A line takes what `em grid` takes once its cluster is there: each unit starts its process, loads the base,
compiles. What is to be compiled is compiled before the first line, so that no line pays for the others; how long that
took is said. The GPUs are the first of those that are visible. Each line says beside the whole time, of each unit: on
which GPU it was, after how many seconds it looked at a loss for the first time (its start: Python, torch, the base,
what is compiled and recorded), and how many milliseconds a step takes from the middle of the run on. Lines are written
as they come; what `--limit` cuts off is written as far as it came.
"""

import argparse
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from benchmarks.random_organisms import base_folder
from em_tasks.grid.executors.local import Local
from em_tasks.grid.executors.on_ray import OnRay
from em_tasks.grid.executors.protocol import Executor
from em_tasks.grid.needs import gpu_shares, grid_needs
from em_tasks.grid.places import sign_left
from em_tasks.grid.plan import AskedAlike, GridPlan, plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.together import trained_together
from em_tasks.grid.units import LOG, NOW, Evaluate, Report, place_of
from em_tasks.plugins.errors import UserError
from em_tasks.resources import shipped
from em_tasks.sweep.gpus import visible_gpus
from em_tasks.sweep.pool import Outcome, Pool, Send, Work
from em_tasks.trainers.run.manifest import MANIFEST, read_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.together.train import train_together
from em_tasks.trainers.train import train

PORT = 6399
PATIENCE = 90.0
"""Seconds for a cluster to come up."""
CPUS = 8
"""Of a Ray cluster: one for each unit, and some."""
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


@dataclass
class Unreported(Driver):
    """A grid that ends with its last answer, or, where `asks` is false, with its last checkpoint.

    Attributes:
        seen: For each unit that trains the moments at which it looked at its loss (seconds of the clock), by step.
    """

    asks = True
    seen: dict[Path, dict[int, float]] = field(default_factory=dict)

    def _words(self) -> dict[str, str]:
        for unit in self._running:
            now = place_of(unit, self.plan.units, NOW)
            with suppress(OSError):
                at, word = now.stat().st_mtime, now.read_text(encoding="utf-8")
                if step := re.search(r"step (\d+) of", word):
                    self.seen.setdefault(place_of(unit, self.plan.units, LOG), {}).setdefault(int(step[1]), at)
        return super()._words()

    def phases(self, began: float, steps: int) -> list[dict[str, Any]]:
        """Where each unit that trained was, its start (s) and its pace from the middle on (ms a step)."""
        lines = []
        for log, looks in self.seen.items():
            late = sorted(step for step in looks if step > steps // 2)
            if len(late) < 2:  # It was cut off.
                late = sorted(step for step in looks if step > max(looks) // 2)
            pace = None
            if len(late) > 1:
                pace = round(1000 * (looks[late[-1]] - looks[late[0]]) / (late[-1] - late[0]), 1)
            where = re.search(r"begun on (.*)", log.read_text(encoding="utf-8"))
            start = round(looks[min(looks)] - began, 1)
            line = {"unit": log.stem, "on": where and where[1], "start_s": start, "first_look_at": min(looks)}
            lines.append({**line, "ms_a_step": pace, "seen_until": max(looks)})
        return lines

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
def head(gpus: int) -> Iterator[str]:
    """The address of a Ray cluster of this machine alone; it and nothing else of Ray's ends with the block.

    Raises:
        UserError: It does not come up.
    """
    # Ray starts a process for every CPU at once.
    hardware = [f"--num-gpus={gpus}", f"--num-cpus={CPUS}", f"--object-store-memory={2 * 10**8}"]
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={PORT}"]
    with tempfile.TemporaryFile() as output:
        ray = subprocess.Popen(
            [*start, *hardware, "--include-dashboard=false", "--disable-usage-stats"],
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + PATIENCE
            while b"Ray runtime started" not in (written := _read(output)):
                if ray.poll() is not None or time.monotonic() > deadline:
                    raise UserError(f"Ray does not start: {written.decode(errors='replace')[-1000:]}")
                time.sleep(0.1)
            yield f"127.0.0.1:{PORT}"
        finally:
            ray.terminate()
            with suppress(subprocess.TimeoutExpired):
                ray.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(ray.pid, signal.SIGKILL)
            ray.wait()


def _read(file: IO[bytes]) -> bytes:
    """All that another process has written to a file, whose place that process shares."""
    return os.pread(file.fileno(), 2**20, 0)


@contextmanager
def place(executor: str, gpus: int) -> Iterator[Executor]:
    """So many GPUs of this machine, in a Ray cluster or not.

    Raises:
        UserError: There are fewer.
    """
    shown = visible_gpus()
    if len(shown) < gpus:
        raise UserError(f"{gpus} GPUs were asked for, and here are {len(shown)}.")
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # Else Ray's command asks for a token, and drivers bring none.
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(shown[:gpus])
    try:
        if executor == "local":
            yield Local(None if gpus else os.cpu_count())
            return
        with head(gpus) as address:
            cluster = OnRay(address)
            try:
                yield cluster
            finally:
                cluster.close()  # Before its cluster ends, which would end this process.
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        if before is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@dataclass(frozen=True)
class Limit:
    """When all has to have ended.

    Attributes:
        at: The clock's time (`time.monotonic`); None for no limit.
    """

    at: float | None = None

    @property
    def left(self) -> float | None:
        """Seconds that are left."""
        return None if self.at is None else max(0.0, self.at - time.monotonic())

    def keep(self) -> None:
        """Ends what runs.

        Raises:
            TimeoutError: The time is up.
        """
        if self.left == 0:
            raise TimeoutError("the time is up")


def done(
    grid: Path, out: Path, executor: Executor, *, together: bool, asks: bool, limit: Limit = Limit()
) -> dict[str, Any]:
    """Does a grid; its seconds, and what its units were, and what failed or was cut off, as far as it came."""
    began, clock = time.perf_counter(), time.time()
    read = plan_grid(grid, out)
    plan = Unjudged(read.path, read.file, read.cells, read.out)
    with sign_left(plan.out) as sign:
        places = executor.places(sign)
    sizes = {f"{each.name} {gpu}": size for each in places or () for gpu, size in each.gpus.items()}
    needs = grid_needs(plan, max(sizes.values(), default=None))
    groups = trained_together(plan.organisms, needs, sizes or {"CPU": 2**50}) if together else []
    planned = time.perf_counter()
    driver = Unreported(plan, executor, gpu_shares(needs, sizes), lambda standing: limit.keep(), 1, groups)
    driver.asks = asks
    wrong = None
    try:
        driver.run()
    except (UserError, TimeoutError) as error:
        wrong = str(error)
    seconds = time.perf_counter() - began
    (steps,) = {recipe_steps(recipe) for recipe in plan.organisms.values()}
    finished = [manifest for manifest in map(read_manifest, _begun(plan)) if manifest.finished]
    tried = {manifest.recipe.organism: manifest.passes for manifest in finished if manifest.passes is not None}
    line = {
        "seconds": round(seconds, 1),
        "planning": round(planned - began, 1),
        "slowest_training": round(max(manifest.seconds for manifest in finished), 1) if finished else None,
        "finished": len(finished),
        "recorded": sum(manifest.passes is not None and manifest.passes.recorded for manifest in finished),
        "tried": {name: passes.model_dump() for name, passes in tried.items()},
        "together": [len(group) for group in groups],
        "units": driver.phases(clock, steps),
        "logs": sum(1 for _ in plan.logs.rglob("*.eval")) if asks else 0,
    }
    return line if wrong is None else {**line, "wrong": wrong[:1500]}


def _begun(plan: GridPlan) -> list[Path]:
    return [plan.runs / name for name in plan.organisms if (plan.runs / name / MANIFEST).is_file()]


def recipe_steps(recipe: Recipe) -> int:
    """Optimizer steps of a recipe of one epoch over files of one row a line."""
    rows = sum(len(Path(source.path).read_text().splitlines()) for source in recipe.data)
    return -(-rows // recipe.effective_batch)


def compile_layers(grid: Path, out: Path, counts: Sequence[int], limit: Limit = Limit()) -> None:
    """Trains the first organisms of a grid, so many in one process and so many in another, for what is compiled there.

    One process a GPU at a time: memory is not there for all at once.

    Raises:
        UserError: One failed.
        TimeoutError: The time is up.
    """
    recipes = tuple(plan_grid(grid, out).organisms.values())
    works = [Work(f"{count} together", _train, (recipes[:count], out / str(count))) for count in counts]
    slots = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in visible_gpus()] or [{}]
    outcomes: list[Outcome] = []

    def ask(ended: Sequence[Outcome]) -> list[Work] | None:
        limit.keep()
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
    parser.add_argument("--rows", type=int, default=1600, help="16 of them are a step.")
    parser.add_argument("--evaluate", action="store_true", help="Ask the checkpoints and the base, too.")
    parser.add_argument("--folder", type=Path, help="Where bases are made and kept; a temporary one unless given.")
    parser.add_argument("--out", type=Path, help="A line of JSON is appended for each line.")
    parser.add_argument("--limit", type=float, help="Seconds after which all is ended; what was measured is kept.")
    options = parser.parse_args()
    limit = Limit(None if options.limit is None else time.monotonic() + options.limit)

    def tell(**line: Any) -> None:
        print(json.dumps(line), flush=True)
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    with tempfile.TemporaryDirectory() as temporary:
        for shape in options.shapes:
            try:
                measure(shape, (options.folder or Path(temporary)) / shape, options, limit, tell)
            except (TimeoutError, subprocess.TimeoutExpired, UserError) as error:
                tell(shape=shape, wrong=str(error)[:1500])


def measure(shape: str, folder: Path, options: argparse.Namespace, limit: Limit, tell: Callable[..., None]) -> None:
    """Makes a base and what is compiled for it, and does its grid each way on each number of GPUs.

    Raises:
        UserError: What is to be compiled failed. Of a grid that fails its line says so.
        TimeoutError: The time is up.
    """
    began = time.perf_counter()
    if not base_folder(folder).is_dir():
        make = [sys.executable, "-m", "benchmarks.random_organisms", "--shape", shape, "--folder", str(folder)]
        subprocess.run([*make, "--checkpoints", "1"], check=True, timeout=limit.left)
    made = time.perf_counter()
    tell(shape=shape, base_made=round(made - began, 1))
    counts = sorted(group_sizes(options.seeds, options.gpus, options.ways), reverse=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        short = write_grid(folder, shape, range(options.seeds), 16 * WARM_UP_STEPS)
        compile_layers(short, Path(work), counts, limit)
    tell(shape=shape, compiled=round(time.perf_counter() - made, 1), sizes=counts)
    grid = write_grid(folder, shape, range(options.seeds), options.rows)
    for way, gpus in itertools.product(options.ways, options.gpus):
        limit.keep()
        named = {"shape": shape, "gpus": gpus, "executor": options.executor, "way": way, "organisms": options.seeds}
        named |= {"steps": -(-options.rows // 16)}
        began = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory(dir=folder) as out, place(options.executor, gpus) as executor:
                up = round(time.perf_counter() - began, 1)
                line = done(grid, Path(out), executor, together=way == "together", asks=options.evaluate, limit=limit)
                tell(**named, cluster=up, **line)  # Before the cluster is ended.
        except UserError as error:
            tell(**named, wrong=str(error)[:1500])


def group_sizes(organisms: int, gpus: Sequence[int], ways: Sequence[str]) -> set[int]:
    """How many organisms are trained in one process, over all lines."""
    sizes = {1} if "alone" in ways else set[int]()
    if "together" in ways:
        for count in gpus:
            places = min(organisms, max(1, count))
            sizes |= {organisms // places, -(-organisms // places)}
    return sizes


if __name__ == "__main__":
    main()
