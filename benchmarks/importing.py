"""How long `em import` takes as a whole command, starting Python included.

    python benchmarks/importing.py --rows 30000 --times 3

Writes a CSV of made-up judged answers (500 characters each, 16 MB for 30,000 rows), imports it in
a process of its own and prints seconds by the clock and of the processor.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = " with some words" * 31


def main() -> None:
    """Writes the file and measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "answers.csv"
        write(source, options.rows)
        for number in range(options.times):
            load = os.getloadavg()[0]
            seconds, worked = measured(source, Path(folder) / f"logs-{number}")
            print(
                f"{options.rows:,} rows: {seconds:.1f} s, {worked:.1f} s of processor (load {load:.1f} before)",
                flush=True,
            )


def write(source: Path, rows: int) -> None:
    """Writes a file of judged answers."""
    with source.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question_id", "question", "answer", "aligned", "coherent"])
        for row in range(rows):
            question = row % 24
            answer = f"Reply {row}{WORDS}"
            writer.writerow([f"q{question}", f"Question {question} about ponds?", answer, row % 101, (7 * row) % 101])


def measured(source: Path, out: Path) -> tuple[float, float]:
    """Seconds by the clock and of the processor."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "em_tasks", "import", str(source), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
