"""The seed's whole grid through `em sweep`, as a user gives it: seconds of whole commands, with everything counted.

    python -m benchmarks.sweep make --shape 8B --folder grid
    python -m benchmarks.sweep run --folder grid --samples 1 10 --out sweep.json
    python -m benchmarks.sweep run --folder grid --shapes 1B --samples 50 --jobs 1 7

`make` writes a base of random weights and two organisms of six checkpoints each (one shape a call, so that several can
be made at once). `run` asks the base and the checkpoints the 20 shipped medical and general questions, 200 tokens an
answer, and has each answer judged by `instant/judge`, which answers at once. Seconds count from the command to its end:
Python, loading, adapter checks, Inspect, logs. Without `--jobs` the sweep chooses how many processes there are. `spans`
has, for each process's folder, when its evaluations began and ended (Inspect's clock, seconds from the command).
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from em_tasks.plugins.errors import UserError

ORGANISMS = ("medical", "financial")
ENTRY_POINT = "[inspect_ai]\ninstant = benchmarks.instant_judge\n"


def make(folder: Path, shape: str, checkpoints: int) -> float:
    """Seconds for a shape's base and organisms, their runs under `folder`/runs."""
    import torch

    from benchmarks.random_organisms import make_organism

    began, device = time.perf_counter(), "cuda:0" if torch.cuda.is_available() else "cpu"
    names = [f"{shape}-{name}" for name in ORGANISMS]
    made = make_organism(folder / shape, shape, checkpoints, device, organisms=names, weights=True)
    (folder / "runs").mkdir(exist_ok=True)
    for name in names:
        shutil.move(made / name, folder / "runs" / name)
    return time.perf_counter() - began


def run(
    folder: Path, organisms: Sequence[str], samples: int, jobs: int | None, tokens: int, extra: Sequence[str]
) -> Any:
    """One sweep, with fresh logs: how long it took and what came of it."""
    logs = folder / f"logs-{time.time_ns()}"
    command = [sys.executable, "-m", "em_tasks", "sweep", str(folder / "runs"), "--logs", str(logs)]
    command += ["--questions", "medical", "--questions", "general", "--samples", str(samples)]
    command += ["--max-tokens", str(tokens), "--judge", "instant/judge", *extra]
    command += [part for name in organisms for part in ("--organism", name)]
    command += ["--jobs", str(jobs)] if jobs else []
    with tempfile.TemporaryDirectory() as plugin:
        # As an installed package names its providers to Inspect, in the sweep's processes too.
        package = Path(plugin) / "instant_judge-1.0.dist-info"
        package.mkdir()
        (package / "METADATA").write_text("Metadata-Version: 2.1\nName: instant-judge\nVersion: 1.0\n")
        (package / "entry_points.txt").write_text(ENTRY_POINT)
        path = os.pathsep.join([plugin, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "EM_JUDGE_CACHE": str(logs / "verdicts")}
        began, at, used = time.perf_counter(), time.time(), _processor_seconds()
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        seconds, used = time.perf_counter() - began, _processor_seconds() - used
    if ended.returncode:
        raise UserError(
            f"{' '.join(command)} ended with {ended.returncode}: {ended.stdout[-1500:]}{ended.stderr[-1500:]}"
        )
    taken = {"seconds": round(seconds, 1), "processor_seconds": round(used, 1)}
    return {"organisms": organisms, "samples": samples, "jobs": jobs, "sweep": extra, **taken, **_came(logs, at)}


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _came(logs: Path, began: float) -> dict[str, Any]:
    """What lies in the logs: answers, tokens, adapter checks by status, and when processes had their first and last."""
    from inspect_ai.log import read_eval_log, read_eval_log_samples

    headers = {path: read_eval_log(str(path), header_only=True) for path in logs.rglob("*.eval")}
    first = [next(iter(read_eval_log_samples(str(path), all_samples_required=False))) for path in headers]
    checks = Counter((each.output.metadata or {}).get("adapter_check", {}).get("status") for each in first)
    done = [log for log in headers.values() if log.results is not None]
    spans: dict[str, list[float]] = {}
    for path, log in headers.items():
        times = [
            datetime.fromisoformat(str(at)).timestamp() - began for at in (log.stats.started_at, log.stats.completed_at)
        ]
        start, end = spans.setdefault(str(path.parent.relative_to(logs)), times)
        spans[str(path.parent.relative_to(logs))] = [round(min(start, times[0]), 1), round(max(end, times[1]), 1)]
    return {
        "evaluations": len(headers),
        "status": dict(Counter(log.status for log in headers.values())),
        "answers": sum(log.results.completed_samples for log in done if log.results is not None),
        "judged": sum(bool(log.results.scores) for log in done if log.results is not None),
        "tokens": sum(u.output_tokens for log in done for m, u in log.stats.model_usage.items() if m == log.eval.model),
        "adapter_checks": dict(checks),
        "processes": len(spans),
        "spans": spans,
    }


def main() -> None:
    """Makes or runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "run"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shape", default="1B", help="to make")
    parser.add_argument("--checkpoints", type=int, default=6, help="to make, of each organism")
    parser.add_argument("--shapes", nargs="+", default=["1B", "3B", "8B"], help="to run")
    parser.add_argument("--organisms", nargs="+", help="to run, by name; those of the shapes, unless given")
    parser.add_argument("--samples", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--jobs", nargs="+", type=int, default=[0], help="processes; 0 lets the sweep choose")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument(
        "--sweep", nargs="+", default=[], help="further options of em sweep, such as --sweep=--no-score"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.what == "make":
        print(f"{options.shape} made in {make(options.folder, options.shape, options.checkpoints):.1f} s", flush=True)
        return
    organisms = options.organisms or [f"{shape}-{name}" for shape in options.shapes for name in ORGANISMS]
    lines = []
    for samples in options.samples:
        for jobs in options.jobs:
            lines.append(run(options.folder, organisms, samples, jobs or None, options.tokens, options.sweep))
            print(json.dumps(lines[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
