"""What an answer costs besides generating and judging it: milliseconds of processor time, by part.

    python -m benchmarks.overhead --answers 280 1400 5600 --out overhead.json

A sweep's own path (`em_tasks.sweep.evaluate`: `eval_set` over a base and six checkpoints at once, journal of answers,
`em` scorer, cache of verdicts, logs) with an engine and a judge that answer at once: 200 words an answer, 20 token
probabilities a verdict. Beside it what Inspect alone takes: the same questions to seven mock models with the same
settings, with the stock scorer `match` (`plain`), and with two calls of a mock judge (`plain, two judge calls`).
Every line is measured in a process of its own, after a small evaluation that makes everything warm. A second run of the
same, interrupted at every 5 ms of processor time, tells which part was at work: the innermost frame of Inspect or of
this project counts, so that what a library does counts for whoever called it.
"""

import argparse
import json
import multiprocessing
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from em_tasks.plugins.checkpoint_model.engines.protocol import (
    Answer,
    Capabilities,
    EngineFacts,
    EngineSettings,
    Message,
    Sampling,
    Tool,
)
from em_tasks.trainers.run.checkpoints import Checkpoint

CHECKPOINTS = 6
QUESTIONS = ("medical", "general")
WORDS = ("tea", "rest", "water", "slowly", "doctor", "window", "garden", "because", "kettle", "morning", "walk", "ask")
LENGTH = 200
EVERY = 0.005
"""Seconds of processor time between two looks at what is at work."""

PARTS = {
    "/benchmarks/": "the benchmark's own engine and judge",
    "/checkpoint_model/journal": "ours: journal",
    "/checkpoint_model/": "ours: provider",
    "/scorers/judging/cache": "ours: cache of verdicts",
    "/scorers/": "ours: judging",
    "/em_tasks/sweep/": "ours: sweep",
    "/em_tasks/": "ours: the rest",
    "/plugins/": "ours: judging",
    "/inspect_ai/log/_transcript": "Inspect: events of samples",
    "/inspect_ai/event/": "Inspect: events of samples",
    "/inspect_ai/log/": "Inspect: logs",
    "/inspect_ai/model/": "Inspect: calls of models",
    "/inspect_ai/hooks/": "Inspect: hooks",
    "/inspect_ai/_eval/": "Inspect: samples",
    "/inspect_ai/": "Inspect: the rest",
}
"""Folders and what they are counted as; the first that a file's path holds."""


class InstantEngine:
    """An engine that answers at once, each seed something else."""

    def __init__(self, settings: EngineSettings) -> None:
        self._facts = EngineFacts("stacked", "none", "fp32", "fp32", "none", "cpu", "exact", settings.on.fingerprint)

    async def answer(
        self,
        checkpoint: Checkpoint,
        messages: Sequence[Message],
        sampling: Sampling,
        seeds: Sequence[int],
        tools: Sequence[Tool] = (),
    ) -> list[Answer]:
        """Some words for each seed."""
        return [Answer(words(seed), "stop", 40, tuple(range(LENGTH))) for seed in seeds]

    async def read_back(self, checkpoint: Checkpoint) -> int | None:
        """There is nothing to read."""
        return None

    def facts(self) -> EngineFacts:
        """What a real engine would say."""
        return self._facts

    def capabilities(self) -> Capabilities:
        """As the stacked engine's on a GPU."""
        return Capabilities(rows=512, max_top_logprobs=20)

    def close(self) -> None:
        """There is nothing to free."""


def words(seed: int) -> str:
    """An answer of `LENGTH` words."""
    return " ".join(WORDS[(seed >> place % 50) % len(WORDS)] for place in range(LENGTH))


def sweep_path(folder: Path, samples: int, turn: int) -> Callable[[], None]:
    """Our own path: a job as `em sweep` gives it to its process."""
    import benchmarks.instant_judge  # noqa: F401 - names the judge
    import em_tasks.registry  # noqa: F401 - names the task and the provider, where nothing is installed
    from em_tasks.plugins.checkpoint_model.engines import sharing
    from em_tasks.sweep.evaluate import evaluate
    from em_tasks.sweep.plan import Planner, SweepOptions

    vars(sharing)["build_engine"] = InstantEngine
    os.environ["EM_JUDGE_CACHE"] = str(folder / f"verdicts-{turn}")
    options = SweepOptions(questions=QUESTIONS, samples=samples, max_tokens=200, grader="instant/judge")
    (job,) = Planner(folder / "runs", folder / f"logs-{turn}", options).plan()

    def run() -> None:
        failures = evaluate(job, lambda progress: None)
        if failures:
            raise RuntimeError(failures[0])

    return run


def plain_path(folder: Path, samples: int, turn: int, *, judged: bool) -> Callable[[], None]:
    """What Inspect takes for as many answers of mock models."""
    from inspect_ai import Epochs, Task, eval_set
    from inspect_ai.dataset import Sample
    from inspect_ai.model import Model, ModelOutput, ModelUsage, get_model
    from inspect_ai.scorer import Score, Scorer, Target, match, mean, scorer
    from inspect_ai.solver import TaskState, generate

    from em_tasks.questions import load_question_sets
    from em_tasks.sweep.evaluate import SAMPLES_AT_ONCE

    def mock(name: str, text: str) -> Model:
        def output(*arguments: Any) -> ModelOutput:
            given = ModelOutput.from_content(name, text)
            given.usage = ModelUsage(input_tokens=40, output_tokens=LENGTH, total_tokens=40 + LENGTH)
            return given

        return get_model(f"mockllm/{name}", custom_outputs=output)

    judge = mock("judge", "80")

    @scorer(metrics=[mean()])
    def twice_asked() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            replies = [await judge.generate(f"{state.output.completion}\n{rubric}?") for rubric in ("good", "clear")]
            return Score(value=float(replies[0].completion), answer=state.output.completion)

        return score

    models = [mock(f"model{number}", words(number * 7919)) for number in range(CHECKPOINTS + 1)]
    texts = [question.text for each in load_question_sets(list(QUESTIONS)) for question in each.questions]
    task = Task(
        dataset=[Sample(id=str(number), input=text, target="tea") for number, text in enumerate(texts)],
        solver=generate(),
        scorer=twice_asked() if judged else match(),
        epochs=Epochs(samples, "mean"),
    )

    def run() -> None:
        done, _ = eval_set(
            task, log_dir=str(folder / f"plain-{turn}"), model=models, display="none", log_realtime=False,
            max_tasks=len(models), max_samples=max(20, SAMPLES_AT_ONCE // len(models)),
        )  # fmt: skip
        if not done:
            raise RuntimeError("the plain evaluations failed")

    return run


PATHS: dict[str, Callable[[Path, int, int], Callable[[], None]]] = {
    "a sweep's path": sweep_path,
    "plain": lambda folder, samples, turn: plain_path(folder, samples, turn, judged=False),
    "plain, two judge calls": lambda folder, samples, turn: plain_path(folder, samples, turn, judged=True),
}


@contextmanager
def watching(parts: "Counter[str]", functions: "Counter[str]") -> Iterator[None]:
    """Counts which part, and which function of it, is at work at every `EVERY` seconds of processor time."""

    def look(number: int, frame: FrameType | None) -> None:
        while frame is not None:
            path = frame.f_code.co_filename
            part = next((part for piece, part in PARTS.items() if piece in path), None)
            if part is not None:
                parts[part] += 1
                functions[f"{part}: {Path(path).name} {frame.f_code.co_qualname}"] += 1
                return
            frame = frame.f_back
        parts["event loop"] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def measure(path: str, folder: Path, answers: int, watched: int, queue: Any) -> None:
    """One line, in a process of its own."""
    rounds = answers // (20 * (CHECKPOINTS + 1))
    PATHS[path](folder, 1, 0)()
    run = PATHS[path](folder, rounds, 1)
    wall, processor = time.perf_counter(), time.process_time()
    run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    line: dict[str, Any] = {
        "path": path,
        "answers": answers,
        "seconds": wall,
        "processor_ms": 1e3 * processor / answers,
    }
    if watched:
        parts: Counter[str] = Counter()
        functions: Counter[str] = Counter()
        again = PATHS[path](folder, max(1, min(rounds, watched // 140)), 2)
        with watching(parts, functions):
            again()
        # Shares of the undisturbed run: looking takes a little time itself.
        share = line["processor_ms"] / max(1, sum(parts.values()))
        line["parts_ms"] = {part: share * count for part, count in parts.most_common()}
        line["functions_ms"] = {name: share * count for name, count in functions.most_common(40)}
    queue.put(line)


def main() -> None:
    """Measures what is asked for, prints it and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", nargs="+", type=int, default=[280, 1400, 5600], help="multiples of 140")
    parser.add_argument("--paths", nargs="+", default=list(PATHS), choices=list(PATHS))
    parser.add_argument("--watched", type=int, default=1400, help="most answers of the run that is looked at; 0: none")
    parser.add_argument("--functions", type=int, default=0, help="how many functions to show")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines = []
    for answers in options.answers:
        for path in options.paths:
            with tempfile.TemporaryDirectory() as folder:
                if path == "a sweep's path":
                    from benchmarks.random_organisms import make_organism

                    make_organism(Path(folder), "tiny", CHECKPOINTS, "cpu")
                context = multiprocessing.get_context("spawn")
                queue = context.Queue()
                process = context.Process(target=measure, args=(path, Path(folder), answers, options.watched, queue))
                process.start()
                line = queue.get()
                process.join()
            lines.append(line)
            print(f"{path}, {answers} answers: {line['processor_ms']:.2f} ms of processor an answer, ", end="")
            print(f"{line['seconds']:.1f} s in all", flush=True)
            for kind in ("parts_ms", "functions_ms")[: 2 if options.functions else 1]:
                for name, milliseconds in list(line.get(kind, {}).items())[: options.functions or None]:
                    print(f"  {milliseconds:8.2f} {name}", flush=True)
    if options.out:
        options.out.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
