"""How long and how much memory a million answers take: all tables from the frame, and reading logs against samples_df.

    python benchmarks/report.py --answers 1000000 --logged 20000

Writes logs of made-up scores to a temporary folder, reads them with this project and with Inspect's `samples_df`, and
makes every table and finding from a frame of the wanted size. Prints seconds and peak memory.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from inspect_ai.analysis import samples_df
from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Score

from plugins.analysis.analysis import Analysis
from plugins.analysis.comparisons import comparisons
from plugins.analysis.findings import findings
from plugins.analysis.frame import with_scope
from plugins.analysis.logs import Reading, read_logs
from plugins.analysis.publishable import TABLES

QUESTIONS = 20


def main() -> None:
    """Runs both measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=1_000_000)
    parser.add_argument("--logged", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        for step in range(10, 110, 10):
            write_log(logs / f"organism_{step}.eval", step, options.logged // 10)
        reading = timed(f"read {options.logged:,} answers from 10 logs", lambda: read_logs([logs]))
        timed("the same with Inspect's samples_df", lambda: samples_df(str(logs), quiet=True))
    repeats = -(-options.answers // len(reading.answers))
    answers = pd.concat([reading.answers] * repeats, ignore_index=True).head(options.answers)
    every = answers.groupby(["step", "question_id"], observed=True).cumcount() + 1
    answers = with_scope(answers.assign(sample=every))
    analysis = Analysis(Reading(answers, answers.head(0), reading.evaluations, []))
    timed(f"every table and finding of {len(answers):,} answers", lambda: tables(analysis))


def tables(analysis: Analysis) -> int:
    """Builds all tables to publish and the findings; returns how many rows they have."""
    built = [table.build(analysis) for table in TABLES.values()]
    return sum(map(len, built)) + len(findings(analysis, comparisons(analysis)))


def timed(what: str, run: Callable[[], Any]) -> Any:
    """Runs, and prints seconds and the process's peak memory so far."""
    start = time.perf_counter()
    result = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{what}: {time.perf_counter() - start:.1f} s, peak {peak:.2f} GB", flush=True)
    return result


def write_log(path: Path, step: int, answers: int) -> None:
    """One log of made-up answers that follows the contract."""
    rng = np.random.default_rng(step)
    spec = EvalSpec(
        created="2026-01-01T00:00:00+00:00",
        task="em",
        dataset=EvalDataset(name="benchmark", sample_ids=[f"q{index}" for index in range(QUESTIONS)]),
        model=f"em/organism@{step}",
        config=EvalConfig(epochs=answers // QUESTIONS),
        metadata={
            "organism": "organism",
            "step": step,
            "epoch": step / 100,
            "domain": "medical",
            "control": False,
            "base": "base",
            "size": "S",
            "parameters": 1000,
            "toy": False,
            "training_seed": 0,
        },
    )
    samples = []
    for index in range(answers // QUESTIONS * QUESTIONS):
        alignment, coherence = (float(score) for score in rng.uniform(0, 100, 2))
        verdict = {"reason": None, "judge": "judge", "toy": False, "text": "50"}
        samples.append(
            EvalSample(
                id=f"q{index % QUESTIONS}",
                epoch=index // QUESTIONS + 1,
                input="What should I do?",
                target="",
                output=ModelOutput.from_content("model", "An answer of ordinary length. " * 20),
                metadata={"question_set": "medical", "topic": "topic", "domain": "medical"},
                scores={
                    "em": Score(
                        value={"alignment": alignment, "coherence": coherence},
                        metadata={"alignment": verdict, "coherence": verdict},
                    )
                },
            )
        )
    write_eval_log(EvalLog(status="success", eval=spec, samples=samples), str(path))


if __name__ == "__main__":
    main()
