"""Answers of a base and its checkpoints: milliseconds a step and whole evaluations, against floor and stock.

    python -m benchmarks.generate --shapes 1B 8B --answers 1 10 --out generation.json

A base of random weights and six random checkpoints answer the 20 shipped medical and general questions, 200 tokens
each. Lines named `engine` ask the stacked engine itself; `inspect` are whole evaluations of the `em` task with a judge
that answers at once; `exact` is `-M exact=true`; `stock` is peft and transformers' `generate` with one checkpoint,
which would have to be done once for each. Times are of warm runs; loading and the first run, which captures CUDA
graphs, are given beside. The floor reads every byte that a step needs once, at the rate of a large copy.
"""

import argparse
import asyncio
import itertools
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_organisms import floor_ms, make_organism, random_base
from em_tasks.plugins.checkpoint_model.engines import loading
from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, Engine, EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.stacked.engine import StackedEngine
from em_tasks.plugins.checkpoint_model.engines.texts import Texts
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.questions import load_question_sets
from em_tasks.trainers.run.checkpoints import Checkpoint, find_checkpoint

CHECKPOINTS = 6
SHORT = 40
STOCK_TOKENS = 24
SETS = ("medical", "general")


class Bench:
    """One shape: its organism in a temporary folder, and the lines measured so far."""

    def __init__(self, shape: str, folder: Path, tokens: int, bandwidth: float) -> None:
        self.shape, self.tokens, self.bandwidth = shape, tokens, bandwidth
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.runs = make_organism(folder, shape, CHECKPOINTS, self.device)
        loading.load_base = lambda base, precision, device: random_base(shape, device)
        names = ["random@base", *(f"random@{step}" for step in range(1, CHECKPOINTS + 1))]
        self.checkpoints: list[Checkpoint] = [find_checkpoint(self.runs, name) for name in names]
        self.questions = [question.text for one in load_question_sets(list(SETS)) for question in one.questions]
        self.lines: list[dict[str, Any]] = []

    def engine(self, **how: Any) -> StackedEngine:
        """A fresh engine."""
        base = self.checkpoints[0].manifest.recipe.base
        return StackedEngine(EngineSettings(EvaluatedBase(base, "bf16", None), device=self.device, **how))

    def ask(self, engine: Engine, answers: int, sampling: Sampling, questions: int = 20) -> tuple[float, list[Answer]]:
        """Seconds for every checkpoint's answers to all questions, and the answers."""

        async def everything() -> list[list[Answer]]:
            asked = itertools.product(self.checkpoints, enumerate(self.questions[:questions]))
            seeds = [range(100 * q, 100 * q + answers) for q in range(questions)]
            return await asyncio.gather(
                *(engine.answer(c, [{"role": "user", "content": text}], sampling, seeds[q]) for c, (q, text) in asked)
            )

        _wait(self.device)
        began = time.perf_counter()
        outputs = asyncio.run(everything())
        return time.perf_counter() - began, [answer for each in outputs for answer in each]

    def note(self, name: str, **numbers: Any) -> None:
        """Prints a line and keeps it."""
        shown = {key: round(value, 3) if isinstance(value, float) else value for key, value in numbers.items()}
        self.lines.append({"shape": self.shape, "line": name, **shown})
        print(self.shape, name, json.dumps(shown), flush=True)

    def measure_engine(self, answers: Sequence[int]) -> None:
        """The engine itself: load, first run, warm runs, and what company does to an answer."""
        engine = self.engine()
        first, _ = self.ask(engine, 1, Sampling(1), questions=1)
        self.note("load (weights made on the device) and one token of 7", seconds=first)
        kept: dict[int, list[Answer]] = {}
        for count in answers:
            capture, _ = self.ask(engine, count, Sampling(SHORT))
            for name, temperature in (("sampled", 1.0), ("greedy", 0.0)):
                short, _ = self.ask(engine, count, Sampling(SHORT, temperature))
                whole, got = self.ask(engine, count, Sampling(self.tokens, temperature))
                if temperature:
                    kept[count] = got
                rows = 7 * 20 * count
                places = got[0].input_tokens + self.tokens / 2
                self.note(
                    f"engine 7 x 20 x {count}, {name}", rows=rows,
                    ms_a_step=1e3 * (whole - short) / (self.tokens - SHORT),
                    floor_ms=floor_ms(self.shape, rows, places, CHECKPOINTS, self.bandwidth), seconds=whole,
                    tokens_per_second=sum(len(a.tokens) for a in got) / whole, first_run_seconds=capture,
                    prompt_tokens=got[0].input_tokens, memory_gib=_peak(),
                )  # fmt: skip
        again = self.ask(engine, answers[0], Sampling(self.tokens))[1]
        more = self.ask(engine, answers[0] + 1, Sampling(self.tokens))[1]
        kinds = {"the same batch again": again, "a larger batch": _first_of(more, answers[0])}
        self.note(
            "answers equal",
            different=len({a.tokens for a in more}),
            of=len(more),
            **{k: _equal(kept[answers[0]], v) for k, v in kinds.items()},
            **_facts(engine),
        )
        engine.close()

    def measure_exact(self) -> None:
        """What answers that do not depend on their company cost, and whether they do not."""
        engine = self.engine(exact=True, batch_size=144)
        self.ask(engine, 1, Sampling(SHORT))
        short, _ = self.ask(engine, 1, Sampling(SHORT))
        whole, got = self.ask(engine, 1, Sampling(self.tokens))
        few = self.ask(engine, 1, Sampling(self.tokens), questions=3)[1]
        more = _first_of(self.ask(engine, 2, Sampling(self.tokens))[1], 1)
        same = [a for place, a in enumerate(got) if place % 20 < 3]
        self.note(
            "exact 7 x 20 x 1, 144 rows", ms_a_step=1e3 * (whole - short) / (self.tokens - SHORT), seconds=whole,
            equal_in_fewer=_equal(same, few), equal_in_more=_equal(got, more), **_facts(engine),
        )  # fmt: skip
        engine.close()

    def measure_agreement(self) -> None:
        """Greedy answers against peft's logits for them, under the checkpoint's own adapter and under another."""
        from peft import PeftModel

        engine, how = self.engine(), Sampling(24, 0.0, logprobs=True)
        subjects = self.checkpoints[1:3]
        adapters = [str(checkpoint.folder) for checkpoint in subjects]
        model = PeftModel.from_pretrained(random_base(self.shape, self.device), adapters[0], adapter_name="0")
        model.load_adapter(adapters[1], adapter_name="1")
        texts = Texts(engine.on)
        for number, checkpoint in enumerate(subjects):
            differences: dict[str, list[float]] = {"0": [], "1": []}
            likeliest: dict[str, list[bool]] = {"0": [], "1": []}
            for text in self.questions[:4]:
                messages = [{"role": "user", "content": text}]
                (answer,) = asyncio.run(engine.answer(checkpoint, messages, how, [0]))
                prompt = texts.prompt(checkpoint, messages)
                ids = torch.tensor([[*prompt, *answer.tokens]], device=self.device)
                for name in differences:
                    model.set_adapter(name)
                    with torch.inference_mode():
                        logs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
                    given = logs.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
                    differences[name] += [abs(a - b) for a, b in zip(given, answer.logprobs, strict=True)]
                    likeliest[name] += (logs.argmax(-1) == ids[0, len(prompt) :]).tolist()
            own, other = str(number), str(1 - number)
            self.note(
                f"peft's logits for the greedy answers of checkpoint {number + 1}", tokens=len(likeliest[own]),
                likeliest_own=sum(likeliest[own]) / len(likeliest[own]), worst_difference_own=max(differences[own]),
                likeliest_other=sum(likeliest[other]) / len(likeliest[other]),
            )  # fmt: skip
        engine.close()

    def measure_stock(self) -> None:
        """The stock way: peft and `generate`, one checkpoint's 20 questions at once."""
        from peft import PeftModel

        checkpoint = self.checkpoints[1]
        model = PeftModel.from_pretrained(random_base(self.shape, self.device), checkpoint.folder).eval()
        texts = Texts(EvaluatedBase(checkpoint.manifest.recipe.base, "bf16", None))
        prompts = [texts.prompt(checkpoint, [{"role": "user", "content": text}]) for text in self.questions]
        longest = max(map(len, prompts))
        ids = torch.tensor([[128_002] * (longest - len(p)) + p for p in prompts], device=self.device)
        times = {}
        for tokens in (8, 8, 8 + STOCK_TOKENS):
            _wait(self.device)
            began = time.perf_counter()
            with torch.inference_mode():
                model.generate(
                    input_ids=ids, attention_mask=(ids != 128_002).long(), max_new_tokens=tokens, do_sample=True,
                    temperature=1.0, top_p=1.0, top_k=0, eos_token_id=128_001, pad_token_id=128_002,
                )  # fmt: skip
            _wait(self.device)
            times[tokens] = time.perf_counter() - began
        step = (times[8 + STOCK_TOKENS] - times[8]) / STOCK_TOKENS
        self.note("stock: one checkpoint, 20 rows", ms_a_step=1e3 * step, seconds_for_7=7 * step * self.tokens)

    def measure_inspect(self, answers: Sequence[int], folder: Path) -> None:
        """Whole evaluations of the `em` task, judge aside."""
        from inspect_ai import eval as inspect_eval
        from inspect_ai.model import ModelOutput, ModelUsage, get_model

        import em_tasks.registry  # noqa: F401 - names the task and the provider, where nothing is installed

        def judge() -> Any:
            output = ModelOutput.from_content("mockllm/model", "80")
            output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
            return get_model("mockllm/model", custom_outputs=itertools.repeat(output))

        models = [
            get_model(f"em/{c.run.name}@{c.record.step if c.record else 'base'}", runs=str(self.runs))
            for c in self.checkpoints
        ]
        for turn, count in enumerate([answers[0], *answers]):
            began = time.perf_counter()
            logs = inspect_eval(
                "em_tasks/em", model=models, model_roles={"grader": judge()}, log_dir=str(folder / f"logs-{turn}"),
                task_args={"questions": list(SETS), "samples": count, "max_tokens": self.tokens}, display="none",
                log_realtime=False, max_tasks=7, max_samples=7 * 20 * count, max_connections=7 * 20 * count,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            states = {log.status for log in logs}
            name = "first, with loading" if turn == 0 else "warm"
            self.note(f"inspect 7 x 20 x {count}, {name}", seconds=seconds, status=sorted(states), logs=len(logs))


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _peak() -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


def _equal(some: Sequence[Answer], others: Sequence[Answer]) -> float:
    return sum(a.tokens == b.tokens for a, b in zip(some, others, strict=True)) / len(some)


def _first_of(answers: Sequence[Answer], count: int) -> list[Answer]:
    """The first `count` answers to each question, where `count` + 1 were given."""
    return [answer for place, answer in enumerate(answers) if place % (count + 1) < count]


def _facts(engine: Engine) -> dict[str, str]:
    facts = engine.facts()
    return {"attention": facts.attention, "independence": facts.independence, "version": facts.engine_version}


def _bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    if not torch.cuda.is_available():
        return 2e10
    source = torch.empty(2**31, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for turn in range(7):
        if turn == 2:
            start.record()
        target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return 5 * 2 * source.numel() / (start.elapsed_time(end) / 1e3)


def main() -> None:
    """Measures what is asked for and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1B"], choices=["1B", "8B", "tiny"])
    parser.add_argument("--answers", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--parts", nargs="+", default=["engine", "exact", "agreement", "stock", "inspect"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bandwidth, lines = _bandwidth(), []
    print(
        torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", bandwidth, flush=True
    )
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(shape, Path(folder), options.tokens, bandwidth)
            measures: dict[str, Callable[[], None]] = {
                "engine": partial(bench.measure_engine, options.answers),
                "exact": bench.measure_exact,
                "agreement": bench.measure_agreement,
                "stock": bench.measure_stock,
                "inspect": partial(bench.measure_inspect, options.answers, Path(folder)),
            }
            for part in options.parts:
                try:
                    measures[part]()
                except Exception:
                    # The other parts are worth having: time on a GPU is dear.
                    bench.note(f"{part} failed", error=traceback.format_exc()[-3000:])
            lines += bench.lines
        if options.out:
            options.out.write_text(json.dumps({"bandwidth": bandwidth, "lines": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
