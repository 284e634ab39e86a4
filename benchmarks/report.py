"""How long and how much memory a million answers take from Inspect's logs to every table, beside Inspect's samples_df.

    python benchmarks/report.py --answers 1000000 --compared 20000

Writes logs that differ from real ones by words and numbers alone (see made_logs.py), some 6 GB for a million answers,
and prints seconds and the peak memory of all processes together. Inspect's `samples_df` reads only as many answers as
--compared says, and so does this project beside it: it would take too long over all of them.
"""

import argparse
import contextlib
import multiprocessing
import os
import platform
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from inspect_ai.analysis import SampleColumn, SampleSummary, samples_df
from inspect_ai.log import read_eval_log
from made_logs import write_logs

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.report.findings import findings
from em_tasks.plugins.analysis.tables.writing import TABLES

WHOLE = [
    *SampleSummary,
    SampleColumn("answer", path="output.completion", full=True),
    SampleColumn("verdicts", path="scores.em.metadata", full=True),
]


def main() -> None:
    """Writes the logs and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--compared", type=int, default=20_000, help="answers for samples_df")
    parser.add_argument("--logs", type=Path, help="folder for the logs; kept, and used again if it has some")
    parser.add_argument("--cold", action="store_true", help="have the system forget the logs before they are read")
    options = parser.parse_args()
    print(machine())
    with contextlib.ExitStack() as stack:
        folder = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs = sorted(folder.glob("*.eval")) or timed("write the logs", lambda: write_logs(folder, options.answers))
        print(described(logs))
        few = logs[: max(1, round(len(logs) * options.compared / options.answers))]
        few_names = [str(log) for log in few]
        for what, read in (
            ("read by this project", lambda: read_logs(few).answers),
            ("samples_df from summaries, which have no verdicts", lambda: samples_df(few_names, quiet=True)),
            (
                "samples_df with whole answers and verdicts",
                lambda: samples_df(few_names, columns=WHOLE, quiet=True, parallel=True),
            ),
        ):
            frame = timed(what, read)
            print(f"    {len(frame):,} answers of {len(few)} logs")
        if options.cold:
            forget(logs)
        whole = timed("READ AND TABLES", lambda: read_and_tables(folder))
        print(f"    {whole:,} answers of {len(logs)} logs")


def read_and_tables(folder: Path) -> int:
    """Everything from the logs to the tables; returns how many answers that were."""
    analysis = timed("  read every log", lambda: Analysis(read_logs([folder])))
    timed("  every table and finding", lambda: tables(analysis))
    return len(analysis.answers)


def tables(analysis: Analysis) -> int:
    """Builds all tables to publish and the findings; returns how many rows they have."""
    built = [build(analysis) for build in TABLES.values()]
    return sum(len(table) for table in built if table is not None) + len(findings(analysis))


def machine() -> str:
    """What this runs on."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    packages = ", ".join(f"{name} {version(name)}" for name in ("inspect_ai", "pandas", "pyarrow", "msgspec"))
    return (
        f"{os.cpu_count()} x {names[0] if names else platform.processor()}, "
        f"{psutil.virtual_memory().total / 1e9:.0f} GB, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {packages}"
    )


def described(logs: list[Path]) -> str:
    """What the logs are, after Inspect has read one of them itself."""
    log = read_eval_log(str(logs[-1]))
    assert log.status == "success"
    assert log.samples is not None
    with zipfile.ZipFile(logs[-1]) as archive:
        sizes = [(one.compress_size, one.file_size) for one in archive.infolist() if one.filename.startswith("samples")]
    packed, unpacked = (sum(size) / len(sizes) / 1e3 for size in zip(*sizes, strict=True))
    return (
        f"{len(logs)} logs, {sum(file.stat().st_size for file in logs) / 1e9:.2f} GB; Inspect reads the last: "
        f"{len(log.samples):,} samples of {len(log.samples[0].events)} events, {unpacked:.1f} kB ({packed:.1f} packed)"
    )


def timed(what: str, run: Callable[[], Any]) -> Any:
    """Runs, and prints seconds, processor time and peak memory of this process and those that it started, together."""
    with peak_memory() as peak:
        start, worked = time.perf_counter(), sum(os.times()[:4])
        result = run()
        seconds = time.perf_counter() - start
        for process in multiprocessing.active_children():  # samples_df does not wait for its own
            process.join()
        worked = sum(os.times()[:4]) - worked
    print(f"{what}: {seconds:.1f} s, {worked:.1f} s of processors, peak {max(peak) / 1e9:.2f} GB", flush=True)
    return result


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Bytes of resident memory twenty times a second; what processes share is counted for each."""
    seen: list[int] = []
    ended = threading.Event()
    this = psutil.Process()

    def watch() -> None:
        while True:
            total = 0
            for process in (this, *this.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            seen.append(total)
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def forget(logs: list[Path]) -> None:
    """Drops the logs from the system's cache, so that they are read from the disk."""
    for log in logs:
        with log.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


if __name__ == "__main__":
    main()
