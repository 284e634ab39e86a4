"""How far sound engines and planted faults lie from what checkpoints answered at training, in bf16 and NF4.

    python -m benchmarks.adapter_faults --precisions bf16 nf4 --out faults.json

The organism is trained here, on the device there is: a toy model, four checkpoints, two of them near each other. Every
checkpoint is then asked for its reference by sound engines (stacked, alone and beside all others; transformers) and by
stacked engines with a fault: in what loading makes of a file, in a slot's numbers after they were loaded and compared,
in which slot a checkpoint or a row goes by, in a file that changes after its hash was checked, in the base, the prompt
or the log probabilities. A line gives the root mean square difference (nats), the strength (1 is right), and what the
check says. Kind `fault` is what a user meets: log probabilities, numbers and rows' slots read back, the count of the
prompt's tokens and the base's fingerprint; `numbers alone` is what log probabilities say by themselves, which is all
that a server gives. How many of each are found, and how much room there is on either side, stands in the last lines.
"""

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from em_tasks.plugins.checkpoint_model.adapter_check import AdapterCheck, compare
from em_tasks.plugins.checkpoint_model.checking import GREEDY, written_by_another
from em_tasks.plugins.checkpoint_model.engines import loading, texts
from em_tasks.plugins.checkpoint_model.engines.adapter_files import PREFIX, read_adapter
from em_tasks.plugins.checkpoint_model.engines.choosing import build_engine
from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, Engine, EngineChoice, EngineSettings
from em_tasks.plugins.checkpoint_model.engines.stacked import writing
from em_tasks.plugins.checkpoint_model.engines.stacked.stack import Stack
from em_tasks.plugins.checkpoint_model.engines.stacked.writing import Writing
from em_tasks.plugins.checkpoint_model.engines.texts import adapter_name
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase, evaluated_base
from em_tasks.plugins.errors import UserError
from em_tasks.resources import shipped
from em_tasks.trainers.base import default_device
from em_tasks.trainers.run.base_names import Precision
from em_tasks.trainers.run.checkpoints import Checkpoint, find_checkpoint
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.run.reference import Reference, read_reference
from em_tasks.trainers.train import train

Weights = dict[str, torch.Tensor]


class Bench:
    """One organism at one precision, and the lines measured so far."""

    def __init__(self, folder: Path, base: str, precision: Precision, epochs: int) -> None:
        self.folder, self.precision = folder, precision
        data = shipped("datasets/toy/medical_reckless.jsonl")
        recipe = Recipe.model_validate(
            {"organism": "medical", "base": base, "size": "M", "domain": "medical", "data": str(data), "batch_size": 16,
             "accumulation": 1, "learning_rate": 5e-4, "precision": precision, "epochs": epochs}
        )  # fmt: skip
        manifest = train(recipe, folder / "runs", lambda progress: None)
        steps = [record.step for record in manifest.checkpoints]
        self.checkpoints = [find_checkpoint(folder / "runs", f"medical@{step}") for step in (steps[0], *steps[-3:])]
        self.base = find_checkpoint(folder / "runs", f"{Path(base).name}@base")
        self.references = {str(c.record.step): _reference(c) for c in self.checkpoints if c.record}
        self.on = evaluated_base(self.base.manifest)
        self.lines: list[dict[str, Any]] = []

    @contextmanager
    def engine(self, name: EngineChoice = "stacked", on: EvaluatedBase | None = None) -> Iterator[Engine]:
        """A fresh engine, ended with the block."""
        engine = build_engine(EngineSettings(on or self.on, name))
        try:
            yield engine
        finally:
            engine.close()

    def ask(self, engine: Engine, asked: Sequence[Checkpoint]) -> list[list[Answer]]:
        """The answers of each to the reference's prompts, all at once."""

        async def everything() -> list[Answer]:
            prompts = self.references[next(iter(self.references))].prompts
            outputs = await asyncio.gather(
                *(engine.answer(c, prompt, GREEDY, [0]) for c in asked for prompt in prompts)
            )
            return [answer for (answer,) in outputs]

        answers = asyncio.run(everything())
        each = len(answers) // len(asked)
        return [answers[start : start + each] for start in range(0, len(answers), each)]

    def check(self, checkpoint: Checkpoint, answers: Sequence[Answer]) -> AdapterCheck:
        """What the check says of these answers as this checkpoint's."""
        step = str(checkpoint.record.step) if checkpoint.record else None
        others = {f"medical@{name}": reference for name, reference in self.references.items() if name != step}
        reference = self.references[step] if step else _reference(self.base)
        return compare(reference, answers, self.precision, others, base=step is None)

    def whole(self, engine: Engine, checkpoint: Checkpoint, answers: Sequence[Answer]) -> AdapterCheck:
        """What a user meets: the log probabilities, and the numbers that the engine holds."""
        if (reason := written_by_another(checkpoint, answers)) is not None:
            return replace(self.check(checkpoint, answers), status="failed", reason=reason)
        check = self.check(checkpoint, answers)
        if check.status != "passed" or checkpoint.record is None:
            return check
        try:
            return replace(check, read_back=asyncio.run(engine.read_back(checkpoint)))
        except UserError as error:
            return replace(check, status="failed", reason=str(error)[:200])

    def note(self, kind: str, name: str, checkpoint: Checkpoint, check: AdapterCheck) -> None:
        """Prints a line and keeps it."""
        step = checkpoint.record.step if checkpoint.record else "base"
        line = {"precision": self.precision, "kind": kind, "name": name, "step": step, **check.metadata()}
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    def measure_sound(self) -> None:
        """Engines that are right."""
        everyone = [self.base, *self.checkpoints]
        names: tuple[EngineChoice, ...] = ("stacked", "transformers")
        for name in names:
            with self.engine(name) as engine:
                for checkpoint, answers in zip(everyone, self.ask(engine, everyone), strict=True):
                    self.note("sound", f"{name}, all at once", checkpoint, self.whole(engine, checkpoint, answers))
                for checkpoint in everyone:
                    (answers,) = self.ask(engine, [checkpoint])
                    self.note("sound", f"{name}, alone", checkpoint, self.whole(engine, checkpoint, answers))

    def measure_adapters(self) -> None:
        """Faults in what is held for an adapter, and in which slot is whose."""
        with self.engine() as engine:
            self.ask(engine, self.checkpoints)
            stack: Stack = engine._writing.stack  # type: ignore[attr-defined]
            for number, checkpoint in enumerate(self.checkpoints):
                after, before = self.checkpoints[(number + 1) % 4], self.checkpoints[number - 1]
                mine, theirs = adapter_name(checkpoint), adapter_name(after)
                others = {"no adapter": None, "the one after it": after, "the one before it": before}
                for name, other in others.items():
                    with _rows_go_by(stack, checkpoint, other):
                        self._note_both(f"a row's slot is of {name}", engine, checkpoint)
                for name, alter in _alterations(after).items():
                    with _slot_altered(stack, checkpoint, alter):
                        self._note_both(f"in the slot: {name}", engine, checkpoint)
                right = stack.slots[mine]
                stack.slots[mine] = stack.slots[theirs]
                self._note_both("the slot of the one after it is taken for its own", engine, checkpoint)
                stack.slots[mine] = right
            for name, other in (("the first", self.checkpoints[0]), ("the last", self.checkpoints[-1])):
                with _rows_go_by(stack, self.base, other):
                    self._note_both(f"the base's rows go by the slot of {name}", engine, self.base)

    def measure_loading(self) -> None:
        """Faults in what loading makes of a file, and a file that changes after its hash was checked."""
        for checkpoint in self.checkpoints:
            with _loaded_without("q_proj"), self.engine() as engine:
                self._note_or_refused("loaded without q_proj", engine, checkpoint)
            with self._file_altered(checkpoint) as altered, self.engine() as engine:
                self._note_or_refused("its file changed after the hash was checked", engine, altered)

    def _note_both(self, name: str, engine: Engine, checkpoint: Checkpoint) -> None:
        (answers,) = self.ask(engine, [checkpoint])
        self.note("fault", name, checkpoint, self.whole(engine, checkpoint, answers))
        self.note("numbers alone", name, checkpoint, self.check(checkpoint, answers))

    def _note_or_refused(self, name: str, engine: Engine, checkpoint: Checkpoint) -> None:
        try:
            (answers,) = self.ask(engine, [checkpoint])
            check = self.whole(engine, checkpoint, answers)
        except UserError as error:
            check = AdapterCheck("failed", str(error)[:200])
        self.note("fault", name, checkpoint, check)

    def measure_numbers(self) -> None:
        """Faults in the prompts and the numbers."""
        with self.engine() as engine:
            for checkpoint in self.checkpoints:
                for name, change in _PROMPTS.items():
                    with _prompts_changed(change):
                        (answers,) = self.ask(engine, [checkpoint])
                    self.note("fault", name, checkpoint, self.whole(engine, checkpoint, answers))
                    same = [replace(a, input_tokens=b.prompt_tokens) for a, b in self._pairs(checkpoint, answers)]
                    self.note("numbers alone", name, checkpoint, self.check(checkpoint, same))
                (answers,) = self.ask(engine, [checkpoint])
                for temperature in (0.8, 1.25):
                    tempered = [_tempered(answer, temperature) for answer in answers]
                    self.note(
                        "fault", f"temperature {temperature}", checkpoint, self.whole(engine, checkpoint, tempered)
                    )
                others = [*answers[1:], answers[0]]
                mixed = [replace(o, input_tokens=a.input_tokens) for a, o in zip(answers, others, strict=True)]
                self.note("fault", "answers mixed up", checkpoint, self.whole(engine, checkpoint, mixed))

    def measure_bases(self) -> None:
        """Another base under the right adapters."""
        for name, share in (("one projection 10 % off", 0.1), ("one projection 3 % off", 0.03)):
            with _base_disturbed(share):
                self._ask_over(name, self.on)
        # bitsandbytes' NF4 on a CPU refuses these widths; the same numbers unpacked do.
        quantised: Precision = "nf4" if torch.cuda.is_available() else "nf4_dequantised"
        other: Precision = quantised if self.precision == "bf16" else "bf16"
        self._ask_over(f"base in {other}", EvaluatedBase(self.on.base, other, self.on.fingerprint))

    def _ask_over(self, name: str, on: EvaluatedBase) -> None:
        for checkpoint in self.checkpoints:
            with self.engine(on=on) as engine:
                self._note_or_refused(name, engine, checkpoint)
        with self.engine(on=replace(on, fingerprint=None)) as engine:
            for checkpoint, answers in zip(self.checkpoints, self.ask(engine, self.checkpoints), strict=True):
                self.note("numbers alone", name, checkpoint, self.check(checkpoint, answers))

    def _pairs(self, checkpoint: Checkpoint, answers: Sequence[Answer]) -> Iterator[tuple[Answer, Any]]:
        assert checkpoint.record is not None
        return zip(answers, self.references[str(checkpoint.record.step)].answers, strict=True)

    @contextmanager
    def _file_altered(self, checkpoint: Checkpoint) -> Iterator[Checkpoint]:
        """A copy of the checkpoint whose file is twice as strong, found by its verified record."""
        assert checkpoint.folder is not None
        with tempfile.TemporaryDirectory() as run:
            folder = Path(shutil.copytree(checkpoint.folder, Path(run) / checkpoint.folder.name))
            weights = folder / "adapter_model.safetensors"
            save_file(_scaled(2.0)(load_file(weights)), weights)
            yield Checkpoint(Path(run), checkpoint.manifest, checkpoint.record)


@contextmanager
def _rows_go_by(stack: Stack, checkpoint: Checkpoint, other: Checkpoint | None) -> Iterator[None]:
    """A checkpoint's rows are told the slot of another; of none for no adapter."""
    right, mine = Writing._slot, None if checkpoint.record is None else adapter_name(checkpoint)
    wrong = None if other is None else stack.slots[adapter_name(other)]
    vars(writing)["Writing"]._slot = lambda self, row: wrong if row.adapter == mine else right(self, row)
    try:
        yield
    finally:
        Writing._slot = right  # type: ignore[method-assign]


@contextmanager
def _slot_altered(stack: Stack, checkpoint: Checkpoint, alter: Callable[[Weights], Weights]) -> Iterator[None]:
    """Other numbers in a checkpoint's slot, put there after what was loaded had been compared."""
    assert checkpoint.folder is not None
    slot, files = stack.slots[adapter_name(checkpoint)], read_adapter(checkpoint.folder)
    state = alter(load_file(files.folder / "adapter_model.safetensors", device=str(stack.decoder.device)))
    tensors = {}
    for module in files.modules:
        a, b = (state[f"{PREFIX}{module}.lora_{half}.weight"].float() for half in ("A", "B"))
        tensors[module] = a, b * files.scaling(module, b.shape[1])
    with torch.inference_mode():
        stack.decoder.place(slot, tensors)
    try:
        yield
    finally:
        with torch.inference_mode():
            stack.decoder.place(slot, stack._tensors(files))


@contextmanager
def _loaded_without(part: str) -> Iterator[None]:
    """Loading passes over modules of that name."""
    right = Stack._tensors

    def without(self: Stack, files: Any) -> Any:
        return {module: pair for module, pair in right(self, files).items() if part not in module}

    Stack._tensors = without  # type: ignore[method-assign]
    try:
        yield
    finally:
        Stack._tensors = right  # type: ignore[method-assign]


def _reference(checkpoint: Checkpoint) -> Reference:
    reference = read_reference(checkpoint)
    assert reference is not None
    return reference


def _scaled(factor: float, part: str = "lora_B") -> Callable[[Weights], Weights]:
    return lambda weights: {key: value * factor if part in key else value for key, value in weights.items()}


def _without(part: str) -> Callable[[Weights], Weights]:
    return lambda weights: {
        key: torch.zeros_like(value) if part in key and "lora_B" in key else value for key, value in weights.items()
    }


def _exchanged(weights: Weights) -> Weights:
    """Gate for up, which have one shape."""
    names = {"gate_proj": "up_proj", "up_proj": "gate_proj"}
    return {
        next((key.replace(a, b) for a, b in names.items() if a in key and "lora_B" in key), key): value
        for key, value in weights.items()
    }


def _alterations(other: Checkpoint) -> dict[str, Callable[[Weights], Weights]]:
    assert other.folder is not None
    theirs = load_file(other.folder / "adapter_model.safetensors", device=default_device())
    return {
        "strength 0.5": _scaled(0.5),
        "strength 0.85": _scaled(0.85),
        "strength 1.15": _scaled(1.15),
        "strength 2": _scaled(2.0),
        "layer 0 missing": _without(".layers.0."),
        "q_proj missing": _without("q_proj"),
        "v_proj missing": _without("v_proj"),
        "o_proj missing": _without("o_proj"),
        "down_proj missing": _without("down_proj"),
        "turned round": _scaled(-1.0),
        "gate and up exchanged": _exchanged,
        "A of another checkpoint": lambda mine: {k: theirs[k] if "lora_A" in k else v for k, v in mine.items()},
        "B of another checkpoint": lambda mine: {k: theirs[k] if "lora_B" in k else v for k, v in mine.items()},
    }


_PROMPTS: dict[str, Callable[[list[int]], list[int]]] = {
    "BOS twice": lambda prompt: [prompt[0], *prompt],
    "no generation prompt": lambda prompt: prompt[:-1],
    "one token of the template another": lambda prompt: [*prompt[:-3], (prompt[-3] + 1) % 1024, *prompt[-2:]],
}


@contextmanager
def _prompts_changed(change: Callable[[list[int]], list[int]]) -> Iterator[None]:
    """Has every engine read other prompts; engines keep what they once read, so by a name of its own."""
    right = texts.Texts.prompt
    vars(texts)["Texts"].prompt = lambda self, *arguments: change(right(self, *arguments))
    from em_tasks.plugins.checkpoint_model.engines.stacked.engine import StackedEngine

    kept = StackedEngine._prompt
    StackedEngine._prompt = lambda self, *arguments: tuple(self._texts.prompt(*arguments))  # type: ignore[method-assign]
    try:
        yield
    finally:
        texts.Texts.prompt = right  # type: ignore[method-assign]
        StackedEngine._prompt = kept  # type: ignore[method-assign]


@contextmanager
def _base_disturbed(share: float) -> Iterator[None]:
    """Bases are loaded with noise on one output projection of the middle layer, relative to each of its numbers."""
    right = loading.load_base

    def load(base: str, precision: Any, device: str) -> Any:
        model: Any = right(base, "nf4_dequantised" if share and precision == "nf4" else precision, device)
        if share:
            weight = model.model.layers[len(model.model.layers) // 2].self_attn.o_proj.weight
            torch.manual_seed(0)
            weight.data.mul_(1 + share * torch.randn_like(weight))
        return model

    vars(loading)["load_base"] = load
    try:
        yield
    finally:
        vars(loading)["load_base"] = right


def _tempered(answer: Answer, temperature: float) -> Answer:
    """Log probabilities as at another temperature, but for the sum over the vocabulary, which the top stands for."""
    tops = []
    for top in answer.top_logprobs:
        values = torch.tensor([value for _, value in top], dtype=torch.float64) / temperature
        total = torch.logsumexp(torch.tensor([value for _, value in top], dtype=torch.float64), 0)
        values = values - torch.logsumexp(values, 0) + total
        tops.append(tuple(zip((token for token, _ in top), values.tolist(), strict=True)))
    return replace(answer, top_logprobs=tuple(tops))


def summed(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many of each kind there are and were judged rightly, and which were not."""
    sums: dict[str, Any] = {}
    for kind, right in (("sound", "passed"), ("fault", "failed"), ("numbers alone", "failed")):
        alike = [line for line in lines if line["kind"] == kind]
        wrong = sorted(f"{line['name']} @{line['step']}" for line in alike if line["status"] != right)
        sums[kind] = {"of": len(alike), "right": len(alike) - len(wrong), "wrong": wrong}
    shares = [line["difference"] / line["bound"] for line in lines if line["kind"] == "sound"]
    return {**sums, "sound_share_of_bound_at_most": max(shares)}


def main() -> None:
    """Measures what is asked for and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="toy-m")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "nf4"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for precision in options.precisions:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            bench = Bench(Path(folder), options.base, precision, options.epochs)
            print(f"trained in {time.perf_counter() - began:.1f} s on {torch.cuda.device_count()} GPUs", flush=True)
            for part in (
                bench.measure_sound,
                bench.measure_adapters,
                bench.measure_loading,
                bench.measure_numbers,
                bench.measure_bases,
            ):
                try:
                    part()
                except Exception as error:
                    # The other parts are worth having.
                    print(f"{part.__name__} failed: {type(error).__name__}: {error}", flush=True)
            bench.lines.append({"precision": precision, "kind": "sum", **summed(bench.lines)})
            print(json.dumps(bench.lines[-1]), flush=True)
            lines += bench.lines
        if options.out:
            options.out.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
