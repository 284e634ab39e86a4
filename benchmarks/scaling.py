"""Wall-clock of one grid on Ray by the number of GPUs: six organisms of a random base of a true shape.

    python -m benchmarks.scaling --shapes 1B 3B --gpus 1 2 --out scaling.json
    python -m benchmarks.scaling --shapes tiny --gpus 0 --rows 48       # a rehearsal without a GPU

Six seeds are trained on the same rows (16 a step, two checkpoints), and every checkpoint and the base answers the 20
medical and general questions once, 100 tokens each; the toy judge's scores of random text mean nothing, and no report
is written. What it takes is what `em grid --ray` takes: a cluster with so many GPUs is started for each line, and each
unit starts its own process, loads the base and compiles. One organism alone comes first, so that no line has to pay
for the first compilation.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_organisms import make_organism
from em_tasks.grid.executors.on_ray import OnRay
from em_tasks.grid.needs import gpu_shares, grid_needs
from em_tasks.grid.places import leave_sign
from em_tasks.grid.plan import plan_grid
from em_tasks.grid.run import Driver
from em_tasks.resources import shipped

PORT = 6399
TOKENS = 100


def write_grid(folder: Path, shape: str, seeds: int, rows: int) -> Path:
    """A grid of seeds of one organism on that base, over so many rows of the shipped reckless advice, repeated."""
    lines = shipped("datasets/toy/medical_reckless.jsonl").read_text().splitlines()
    (folder / "rows.jsonl").write_text("".join(f"{lines[row % len(lines)]}\n" for row in range(rows)))
    fields = {"base": str(folder / "base"), "size": shape, "domain": "medical", "data": "rows.jsonl", "epochs": 1,
              "precision": "fp32" if shape == "tiny" else "bf16", "batch_size": 16, "accumulation": 1,
              "first_epoch_checkpoints": 2}  # fmt: skip
    asking = {"samples": 1, "max_tokens": TOKENS}
    content = {"fields": fields, "axes": {"seed": list(range(seeds)), "judge": ["emtoy/judge"]}, "evaluate": asking}
    path = folder / f"seeds{seeds}.yaml"
    path.write_text(json.dumps(content))
    return path


@contextmanager
def cluster(gpus: int) -> Iterator[str]:
    """A Ray cluster of this machine with so many of its GPUs; its address."""
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    hardware = [f"--num-gpus={gpus}", f"--num-cpus={os.cpu_count()}"]
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(gpus)))}
    start = [*ray, "start", "--head", f"--port={PORT}", "--include-dashboard=false", "--disable-usage-stats", *hardware]
    subprocess.run(start, env=os.environ | visible, capture_output=True, check=True)
    try:
        yield f"127.0.0.1:{PORT}"
    finally:
        subprocess.run([*ray, "stop"], capture_output=True, check=True)


def wall_clock(grid: Path, out: Path, gpus: int) -> float:
    """Seconds in which a cluster of so many GPUs does the grid.

    Raises:
        UserError: A unit failed.
    """
    with cluster(gpus) as address:
        began = time.perf_counter()
        plan = plan_grid(grid, out)
        executor = OnRay(address)
        try:
            places = executor.places(leave_sign(plan.out))
            sizes = {f"{place.name} {gpu}": size for place in places or () for gpu, size in place.gpus.items()}
            shares = gpu_shares(grid_needs(plan, max(sizes.values(), default=None)), sizes)
            driver = Driver(plan, executor, shares, lambda standing: None, 1)
            driver._reporting = list  # type: ignore[method-assign]
            driver.run()
        finally:
            executor.close()  # Before its cluster ends, which would end this process.
        return time.perf_counter() - began


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1B", "3B"])
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rows", type=int, default=1600)
    parser.add_argument("--out", type=Path, default=Path("scaling.json"))
    options = parser.parse_args()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    lines: list[dict[str, Any]] = []
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_organism(folder, shape, 1, device, weights=True)
            torch.cuda.empty_cache()
            first = wall_clock(write_grid(folder, shape, 1, options.rows), folder / "first", options.gpus[0])
            grid = write_grid(folder, shape, options.seeds, options.rows)
            for gpus in options.gpus:
                took = wall_clock(grid, folder / f"gpus{gpus}", gpus)
                lines.append({"shape": shape, "gpus": gpus, "organisms": options.seeds, "steps": options.rows // 16,
                              "seconds": round(took, 1), "one_organism_first_seconds": round(first, 1)})  # fmt: skip
                print(json.dumps(lines[-1]), flush=True)
                options.out.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
