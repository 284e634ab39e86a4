"""Answers of a base and its checkpoints: milliseconds a step and whole evaluations, against floor and stock.

    python -m benchmarks.generate --shapes 1B 8B --answers 1 10 50 --out generation.json
    python -m benchmarks.generate --engine vllm --answers 1 10 50 --out generation-vllm.json
    python -m benchmarks.generate --exact --batch-size 144 --parts engine

A base of random weights on disk and six random checkpoints answer the 20 shipped medical and general questions, 200
tokens each. Parts: `engine` asks the engine itself, from its start on; `inspect` are whole evaluations of the `em` task
with a judge that answers at once, by the engine that runs already; `agreement` holds greedy answers against peft's fp32
logits; `checks` are the adapter checks of all checkpoints; `profile` says which kernels a decode step consists of;
`stock` is peft and `generate` of transformers with one checkpoint's questions, `hf` Inspect's `hf/` provider with one,
each of which would have to be done once for every checkpoint. The floor reads every byte that a step needs once, at the
rate of a large copy.
"""

import argparse
import asyncio
import gc
import itertools
import json
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_organisms import SHAPES, base_folder, floor_ms, make_organism, write_prompts
from em_tasks.plugins.checkpoint_model.checking import CheckedAdapter
from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, Engine, EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.sharing import EngineLease
from em_tasks.plugins.checkpoint_model.engines.texts import Texts
from em_tasks.plugins.checkpoint_model.subject import evaluated_base
from em_tasks.questions import load_question_sets
from em_tasks.trainers.base import load_base
from em_tasks.trainers.run.base_names import Precision
from em_tasks.trainers.run.checkpoints import Checkpoint, find_checkpoint

CHECKPOINTS = 6
SHORT = 5
STOCK_TOKENS = 24
PROFILED = 8
"""Tokens of the shorter answers under the profiler: what the host looks at at a time."""
SHOWN = 18
STOCK_ROWS = (20, 500)
"""Rows of one `generate`: a checkpoint's questions once, and 25 times (half of its x 50)."""
SETS = ("medical", "general")


class Bench:
    """One shape: its organism in a folder, one engine over it, and the lines measured so far."""

    def __init__(
        self,
        shape: str,
        folder: Path,
        tokens: int,
        bandwidth: float,
        settings: dict[str, Any],
        precision: Precision = "bf16",
    ) -> None:
        self.shape, self.folder, self.tokens, self.bandwidth = shape, folder, tokens, bandwidth
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.lines: list[dict[str, Any]] = []
        if not (folder / "prompts.json").exists():
            began = time.perf_counter()
            make_organism(folder, shape, CHECKPOINTS, self.device, precision=precision, weights=True)
            write_prompts(folder)
            self.note("organism made", seconds=time.perf_counter() - began)
        self.runs = folder / "runs"
        names = ["random@base", *(f"random@{step}" for step in range(1, CHECKPOINTS + 1))]
        self.checkpoints: list[Checkpoint] = [find_checkpoint(self.runs, name) for name in names]
        self.questions = [question.text for each in load_question_sets(list(SETS)) for question in each.questions]
        self.how = settings
        # The settings of `em/` models, so that whole evaluations share this engine.
        self.settings = EngineSettings(evaluated_base(self.checkpoints[0].manifest), **settings)
        self.lease = EngineLease(self.settings)

    @property
    def engine(self) -> Engine:
        """The engine, made when it is first asked for."""
        return self.lease.engine()

    def close(self) -> None:
        """Ends the engine."""
        self.lease.close()
        free()

    def ask(self, answers: int, sampling: Sampling, questions: int = 20) -> tuple[float, list[Answer]]:
        """Seconds for every checkpoint's answers to the first questions, and the answers."""
        engine = self.engine

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
        print(time.strftime("%H:%M:%S"), self.shape, name, json.dumps(shown), flush=True)

    def measure_engine(self, answers: Sequence[int], wait_for: Path | None = None) -> None:
        """The engine itself: start, first run, warm runs, and what company does to an answer.

        Args:
            answers: To each question.
            wait_for: A file: measure once it is there, `.up` beside it saying that the engine is up.
        """
        first, _ = self.ask(1, Sampling(1), questions=1)
        self.note("start: base loaded, one token of 7", seconds=first)
        if wait_for is not None:
            wait_for.with_suffix(".up").touch()
            while not wait_for.exists():
                time.sleep(0.2)
        kept: list[Answer] = []
        for count in answers:
            capture, _ = self.ask(count, Sampling(self.tokens // SHORT))
            # The largest batches take long enough to be measured once, and greedy answers take as long.
            for name, temperature in (("sampled", 1.0), ("greedy", 0.0))[: 2 if count <= 10 else 1]:
                short, _ = self.ask(count, Sampling(self.tokens // SHORT, temperature))
                whole, got = self.ask(count, Sampling(self.tokens, temperature))
                if temperature and not kept:
                    kept = got
                rows = 7 * 20 * count
                places = got[0].input_tokens + self.tokens / 2
                self.note(
                    f"engine 7 x 20 x {count}, {name}", rows=rows,
                    ms_a_step=1e3 * (whole - short) / (self.tokens - self.tokens // SHORT),
                    floor_ms=floor_ms(self.shape, rows, places, CHECKPOINTS, self.bandwidth), seconds=whole,
                    tokens_per_second=sum(len(a.tokens) for a in got) / whole, first_run_seconds=capture,
                    prompt_tokens=got[0].input_tokens, memory_gib=_peak(),
                )  # fmt: skip
        again = self.ask(answers[0], Sampling(self.tokens))[1]
        more = self.ask(answers[0] + 1, Sampling(self.tokens))[1]
        fewer = self.ask(answers[0], Sampling(self.tokens), questions=3)[1]
        few = [answer for place, answer in enumerate(kept) if place // answers[0] % 20 < 3]
        self.note(
            "answers equal",
            different=len({answer.tokens for answer in more}),
            of=len(more),
            the_same_batch_again=_equal(kept, again),
            a_larger_batch=_equal(kept, _first_of(more, answers[0])),
            a_smaller_batch=_equal(few, fewer),
            **_facts(self.engine),
        )

    def measure_profile(self, answers: Sequence[int]) -> None:
        """The kernels of a decode step: what more of them a longer answer takes than a short one, by name."""
        for count in answers:
            self.ask(count, Sampling(self.tokens // SHORT))  # All sizes captured.
            short, long = self._kernels(count, 1 + PROFILED), self._kernels(count, 1 + 3 * PROFILED)
            step = {name: (ms - short.get(name, (0.0, 0))[0]) / 2 / PROFILED for name, (ms, _) in long.items()}
            calls = {name: (calls - short.get(name, (0.0, 0))[1]) / 2 / PROFILED for name, (_, calls) in long.items()}
            self.note(f"kernels of a step, {7 * 20 * count} rows", ms=sum(step.values()), calls=sum(calls.values()))
            for name in sorted(step, key=lambda name: -step[name])[:SHOWN]:
                self.note(f"  {step[name]:7.3f} ms in {calls[name]:6.1f} of {name[:140]}")

    def _kernels(self, count: int, tokens: int) -> dict[str, tuple[float, int]]:
        """Milliseconds and calls of every kernel (on a CPU, operator) while answers of so many tokens are written."""
        from torch.profiler import ProfilerActivity, profile

        on_gpu = self.device.startswith("cuda")
        with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as watched:
            self.ask(count, Sampling(tokens))
            _wait(self.device)
        spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        return {each.key: (getattr(each, spent) / 1e3, each.count) for each in watched.key_averages()}

    def measure_checks(self) -> None:
        """The adapter check of each checkpoint, one after the other."""
        self.ask(1, Sampling(1), questions=1)
        for checkpoint in self.checkpoints:
            began = time.perf_counter()
            result = asyncio.run(CheckedAdapter(checkpoint, self.settings.on).result(self.engine))
            step = checkpoint.record.step if checkpoint.record else "base"
            self.note(f"adapter check of {step}", seconds=time.perf_counter() - began, **result)

    def measure_agreement(self) -> None:
        """Greedy answers against peft's fp32 logits for them, under the right adapter and under another."""
        from peft import PeftModel

        how, subjects = Sampling(24, 0.0, logprobs=True), self.checkpoints[:4]

        async def answers_of(checkpoint: Checkpoint) -> list[Answer]:
            conversations = [[{"role": "user", "content": text}] for text in self.questions[:5]]
            outputs = await asyncio.gather(*(self.engine.answer(checkpoint, each, how, [0]) for each in conversations))
            return [answer for (answer,) in outputs]

        given = [asyncio.run(answers_of(checkpoint)) for checkpoint in subjects]
        base = load_base(str(base_folder(self.folder)), "fp32", self.device)
        model: Any = PeftModel.from_pretrained(base, str(subjects[1].folder), adapter_name="1")
        for name in ("2", "3"):
            model.load_adapter(str(subjects[int(name)].folder), adapter_name=name)
        texts = Texts(self.settings.on)

        for number, (checkpoint, answers) in enumerate(zip(subjects, given, strict=True)):
            differences: list[float] = []
            gaps: list[float] = []
            likeliest: dict[int, list[bool]] = {name: [] for name in range(len(subjects))}
            for text, answer in zip(self.questions, answers, strict=False):
                prompt = texts.prompt(checkpoint, [{"role": "user", "content": text}])
                ids = torch.tensor([[*prompt, *answer.tokens]], device=self.device)
                tokens = ids[0, len(prompt) :]
                for name in likeliest:
                    logs = _logits(model, name, ids)[0, len(prompt) - 1 : -1].float().log_softmax(-1)
                    likeliest[name] += (logs.argmax(-1) == tokens).tolist()
                    if name == number:
                        taken = logs.gather(1, tokens[:, None])[:, 0]
                        gaps += (logs.max(-1).values - taken).tolist()
                        pairs = zip(taken.tolist(), answer.logprobs, strict=True)
                        differences += [abs(a - b) for a, b in pairs]
            shares = {name: sum(hits) / len(hits) for name, hits in likeliest.items()}
            self.note(
                f"peft's fp32 logits for the greedy answers of {number or 'the base'}", tokens=len(gaps),
                likeliest=shares[number], likeliest_under_another=max(v for k, v in shares.items() if k != number),
                largest_gap_nats=max(gaps), worst_logprob_difference=max(differences),
                rms_logprob_difference=(sum(d * d for d in differences) / len(differences)) ** 0.5,
            )  # fmt: skip
        del model, base
        free()

    def measure_stock(self) -> None:
        """The stock way: peft and `generate`, one checkpoint's questions at once."""
        from peft import PeftModel

        checkpoint = self.checkpoints[1]
        model: Any = PeftModel.from_pretrained(
            load_base(str(base_folder(self.folder)), "bf16", self.device), str(checkpoint.folder)
        ).eval()
        texts = Texts(self.settings.on)
        prompts = [texts.prompt(checkpoint, [{"role": "user", "content": text}]) for text in self.questions]
        longest = max(map(len, prompts))
        for rows in STOCK_ROWS:
            padded = [[128_002] * (longest - len(p)) + p for p in itertools.islice(itertools.cycle(prompts), rows)]
            ids = torch.tensor(padded, device=self.device)
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
            self.note(
                f"stock: one checkpoint, {rows} rows", ms_a_step=1e3 * step,
                seconds_for_7_by_so_many_rows=7 * step * self.tokens,
            )  # fmt: skip
        del model
        free()

    def measure_hf(self) -> None:
        """Inspect's own `hf/` provider: one checkpoint's 20 questions in one batch."""
        from inspect_ai.model import get_model

        model = get_model(
            f"hf/{self.checkpoints[1].folder}",
            device=self.device,
            tokenizer_call_args={"add_special_tokens": False},
            memoize=False,
        )
        for turn in ("first", "warm"):
            seconds, states = self._evaluate([model], 1, self.folder / f"logs-hf-{turn}", temperature=1.0, top_p=1.0)
            self.note(
                f"hf/: one checkpoint x 20 x 1, {turn}", seconds=seconds, seconds_for_7=7 * seconds, status=states
            )
        del model
        free()

    def measure_inspect(self, answers: Sequence[int]) -> None:
        """Whole evaluations of the `em` task, judge aside; the first finds the engine running, and checks adapters."""
        from inspect_ai.model import get_model

        import em_tasks.registry  # noqa: F401 - names the provider, where nothing is installed

        self.ask(answers[0], Sampling(self.tokens // SHORT))
        models = [
            get_model(f"em/{c.run.name}@{c.record.step if c.record else 'base'}", runs=str(self.runs), **self.how)
            for c in self.checkpoints
        ]
        for turn, count in enumerate([answers[0], *answers]):
            name = "first, with adapter checks" if turn == 0 else "warm"
            seconds, states = self._evaluate(models, count, self.folder / f"logs-{time.time_ns()}")
            self.note(f"inspect 7 x 20 x {count}, {name}", seconds=seconds, status=states)

    def _evaluate(self, models: list[Any], samples: int, logs: Path, **config: Any) -> tuple[float, list[str]]:
        """Seconds of one evaluation by all models at once, and how its parts ended."""
        from inspect_ai import eval as inspect_eval
        from inspect_ai.model import ModelOutput, ModelUsage, get_model

        import em_tasks.registry  # noqa: F401 - names the task, where nothing is installed

        output = ModelOutput.from_content("mockllm/model", "80")
        output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
        judge = get_model("mockllm/model", custom_outputs=itertools.repeat(output), memoize=False)
        at_once = 20 * samples * len(models)
        began = time.perf_counter()
        written = inspect_eval(
            "em_tasks/em", model=models, model_roles={"grader": judge}, log_dir=str(logs),
            task_args={"questions": list(SETS), "samples": samples, "max_tokens": self.tokens}, display="none",
            log_realtime=False, max_tasks=len(models), max_samples=at_once, max_connections=at_once, **config,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        problems = {f"{log.status} {log.error.message[:300] if log.error else ''}".strip() for log in written}
        return seconds, sorted(problems)


def free() -> None:
    """Gives back the memory of what nobody holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _logits(model: Any, adapter: int, ids: torch.Tensor) -> torch.Tensor:
    """Of peft with that adapter; 0 is none."""
    model.set_adapter(str(adapter or 1))
    with torch.inference_mode(), nullcontext() if adapter else model.disable_adapter():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits


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


def measured_bandwidth() -> float:
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
    parser.add_argument("--shapes", nargs="+", default=["1B"], choices=list(SHAPES))
    parser.add_argument("--answers", nargs="+", type=int, default=[1, 10])
    parser.add_argument("--inspect-answers", nargs="+", type=int, help="as --answers, for the part inspect")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--engine", default="stacked", choices=["stacked", "transformers", "vllm"])
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "nf4", "nf4_dequantised"], help="of the base")
    parser.add_argument("--profiled", nargs="+", type=int, default=[1, 10], help="as --answers, for the part profile")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--parts", nargs="+", default=["engine", "inspect", "checks", "agreement", "stock", "hf"])
    parser.add_argument("--folder", type=Path, help="where organisms lie, or are made and left; a temporary folder")
    parser.add_argument("--wait-for", type=Path, help="a file: the engine being up, measure once it is there")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    bandwidth, lines = measured_bandwidth(), []
    free()
    print(
        torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU", bandwidth, flush=True
    )
    settings: dict[str, Any] = {"engine": options.engine}
    settings |= {"exact": True} if options.exact else {}
    settings |= {"batch_size": options.batch_size} if options.batch_size else {}
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            name = shape if options.precision == "bf16" else f"{shape}-{options.precision}"
            place = (options.folder or Path(folder)) / name
            bench = Bench(shape, place, options.tokens, bandwidth, settings, options.precision)
            measures: dict[str, Callable[[], None]] = {
                "engine": partial(bench.measure_engine, options.answers, options.wait_for),
                "inspect": partial(bench.measure_inspect, options.inspect_answers or options.answers),
                "checks": bench.measure_checks,
                "profile": partial(bench.measure_profile, options.profiled),
                "agreement": bench.measure_agreement,
                "stock": bench.measure_stock,
                "hf": bench.measure_hf,
            }
            for part in options.parts:
                if part in ("stock", "hf"):
                    bench.close()
                try:
                    measures[part]()
                except Exception:
                    # The other parts are worth having: time on a GPU is dear.
                    bench.note(f"{part} failed", error=traceback.format_exc()[-3000:])
                if options.out:
                    content = {"bandwidth": bandwidth, "settings": settings, "lines": lines + bench.lines}
                    options.out.write_text(json.dumps(content, indent=1) + "\n")
            bench.close()
            lines += bench.lines


if __name__ == "__main__":
    main()
