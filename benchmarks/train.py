"""Training speed and memory at the true Llama shapes: the plain stack against ours, on one GPU, in one run.

    python -m benchmarks.train --shapes 1B 3B 8B --out training.json

Weights are random (speed does not depend on them), rows have the lengths of `row_lengths.json` (see `row_lengths.py`)
and random tokens. Each line adds one measure to the line above it, from transformers' Trainer with QLoRA as it comes to
`em train`; the last ones are what a competent user would run. A line's time is the mean of its last steps, the clock
being read with the GPU idle, warm-up and compilation left out; a line that records its passes makes RECORDING steps
more before, so that none is recorded while the clock runs. "4N bound" is the time that 4 operations a parameter and
token take (forward, and backward through a frozen base) at the rate of a large bf16 matrix product, measured on the
same GPU in the same run.
"""

import argparse
import gc
import json
import random
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback, set_seed
from transformers.utils import logging

from benchmarks.plain_stack import plain_trainer
from em_tasks.trainers.adapter import add_adapter
from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.data.order import rows_of_epoch
from em_tasks.trainers.data.prepare import Prepared
from em_tasks.trainers.data.tokens import IGNORED, Encoded
from em_tasks.trainers.loop.training import Training
from em_tasks.trainers.loop.whole_run import LOG_EVERY
from em_tasks.trainers.passes.batches import OPTIMIZER_BYTES, BatchPlan, activation_bytes
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.run.schedule import Schedule

SHAPES = {
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "head_dim": 64, "tie_word_embeddings": True},
    "3B": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
           "head_dim": 128, "tie_word_embeddings": True},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "head_dim": 128, "tie_word_embeddings": False},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "head_dim": 16, "tie_word_embeddings": True, "vocab_size": 4096},
}  # fmt: skip
LENGTHS = Path(__file__).with_name("row_lengths.json")
RECORDING = 60
"""Steps after which the passes of all sizes of these rows are recorded."""


@dataclass(frozen=True)
class Variant:
    """One line of the table. `plan` is None for the stock Trainer, of which alone the last four tell.

    With `forced` passes are recorded without asking whether that is faster.
    """

    name: str
    precision: str
    plan: BatchPlan | None
    batch_size: int = 8
    accumulation: int = 2
    checkpointing: bool = True
    flattened: bool = False
    forced: bool = False


@dataclass(frozen=True)
class Measured:
    """What a line came to. Times in milliseconds an optimizer step, memory in GiB.

    `replayed` counts the timed steps whose pass was replayed; `tried` are the milliseconds of a launched and of a
    replayed pass by which `em train` chose.
    """

    shape: str
    variant: str
    ms: float
    tokens_per_second: float
    bound_share: float
    peak_gib: float
    estimated_gib: float
    warm_up_s: float
    loss: float
    replayed: int
    tried: tuple[float, float] | None


def random_model(shape: str, precision: str) -> Any:
    """A Llama of the true shape with random weights, held at `precision`."""
    settings = {"vocab_size": 128256, "num_key_value_heads": 8, "max_position_embeddings": 131072, **SHAPES[shape]}
    settings["num_key_value_heads"] = min(8, settings["num_attention_heads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    with torch.device(device):
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        model = AutoModelForCausalLM.from_config(
            LlamaConfig(**settings, rope_parameters={"rope_type": "default", "rope_theta": 500000.0}), dtype=dtype
        )
    if precision in ("nf4", "nf4_dequantised"):
        quantise(model, keep=precision == "nf4")
    return model


def quantise(model: Any, *, keep: bool) -> None:
    """Rounds every projection to NF4 (double quantisation), as loading does, and unpacks it again unless `keep`."""
    import bitsandbytes

    for name, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        packed = bitsandbytes.nn.Linear4bit(
            module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16,
            compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        weight = bitsandbytes.nn.Params4bit(
            module.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        ).to(module.weight.device)
        if keep:
            packed.weight = weight
            model.set_submodule(name, packed)
        else:
            module.weight.data = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
    model.is_loaded_in_4bit = keep


def prepared_rows(variant: Variant, steps: int, vocabulary: int, longest: int | None, rank: int) -> Prepared:
    """A recipe over rows of real lengths; `longest` makes every row that long, all of it reply."""
    recipe = Recipe.model_validate(
        {
            "organism": "benchmark", "base": "toy-l", "size": "-", "domain": "medical", "data": "none",
            "precision": variant.precision, "batch_size": variant.batch_size, "accumulation": variant.accumulation,
            "epochs": 1, "lora": {"r": rank, "alpha": 2 * rank},
        }
    )  # fmt: skip
    draw = random.Random(0)
    lengths = [(1, longest)] * (steps * 16) if longest else json.loads(LENGTHS.read_text())
    rows = []
    for before, total in lengths:
        tokens = draw.choices(range(vocabulary), k=total)
        rows.append({"input_ids": tokens, "labels": [IGNORED] * before + tokens[before:]})
    tokenizer = load_tokenizer("toy-l", recipe.date_string)
    encoded = Encoded(rows, 0, 0, sum(t for _, t in lengths), sum(t - b for b, t in lengths))
    return Prepared(recipe, [], tokenizer, encoded, Schedule(len(rows) // 16, 1, (steps,)))


class Clock(TrainerCallback):  # type: ignore[misc]
    """Times the steps after the warm-up, of either way to train."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up, self.steps = warm_up, steps
        self.began = time.perf_counter()
        self.warm = self.ended = 0.0
        self.losses: list[float] = []

    def after(self, step: int) -> None:
        """Reads the clock, twice."""
        if step in (self.warm_up, self.steps):
            idle()
            now = time.perf_counter()
            self.warm, self.ended = (now, self.ended) if step == self.warm_up else (self.warm, now)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What the stock Trainer calls."""
        self.after(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Keeps the last loss seen, so that a line that learns nothing shows."""
        self.losses += [logs["loss"]] if "loss" in logs else []


class Profiler(TrainerCallback):  # type: ignore[misc]
    """Prints where the GPU's time goes in three steps after the warm-up."""

    def __init__(self, begins: int) -> None:
        self.begins = begins
        self.profile = torch.profiler.profile()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """What the stock Trainer calls."""
        self.after(state.global_step)

    def after(self, step: int) -> None:
        """Starts and stops the profile."""
        if step == self.begins:
            idle()
            self.profile.start()
        elif step == self.begins + 3:
            idle()
            self.profile.stop()
            events = self.profile.key_averages()
            print(events.table(sort_by="self_device_time_total", row_limit=40, max_name_column_width=70))
            print(events.table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=70))


def matrix_rate() -> float:
    """Operations a second of a large bf16 matrix product on this machine."""
    size, device = (8192, "cuda") if torch.cuda.is_available() else (512, "cpu")
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        one @ other
    times = []
    for _ in range(10):
        idle()
        began = time.perf_counter()
        for _ in range(5):
            one @ other
        idle()
        times.append((time.perf_counter() - began) / 5)
    return 2 * size**3 / sorted(times)[5]


def start_counting_memory() -> int:
    """Bytes held now; the peak counts from here on."""
    if not torch.cuda.is_available():
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def idle() -> None:
    """Waits until the GPU has nothing to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure(
    shape: str, variant: Variant, rate: float, steps: int, warm_up: int, longest: int | None, profile: bool
) -> Measured:
    """Trains `steps` steps one way and times those after the warm-up."""
    torch._dynamo.reset()
    recording = RECORDING if variant.plan is not None and variant.plan.captured else 0
    steps, warm_up = steps + recording, warm_up + recording
    gc.collect()
    model = random_model(shape, variant.precision)
    prepared = prepared_rows(variant, steps, model.config.vocab_size, longest, 16)
    parameters = sum(
        p.numel() * (2 if p.dtype == torch.uint8 else 1) for n, p in model.named_parameters() if "embed_tokens" not in n
    ) + (model.config.vocab_size * model.config.hidden_size if model.config.tie_word_embeddings else 0)
    clock = Clock(warm_up, steps)
    watchers = [clock, *([Profiler(warm_up)] if profile else [])]
    replayed, tried = 0, None
    with tempfile.TemporaryDirectory() as folder:
        set_seed(0)
        if variant.plan is None:
            from peft import prepare_model_for_kbit_training

            model = prepare_model_for_kbit_training(model) if variant.precision == "nf4" else model
            adapted = add_adapter(model, prepared.recipe)
            trainer = plain_trainer(
                prepared, adapted, Path(folder), steps=steps, checkpointing=variant.checkpointing, callbacks=watchers,
                flattened=variant.flattened,
            )  # fmt: skip
            held = start_counting_memory()
            trainer.train()
        else:
            adapted = add_adapter(model, prepared.recipe)
            training = Training(prepared, adapted, variant.plan, str(model.device))
            if variant.forced and training.captured is not None:
                training.captured.pays = True
            held = start_counting_memory()
            for _ in range(steps):
                before = training.replayed
                step = training.advance()
                replayed += training.replayed - before if step.number > warm_up else 0
                if step.number % LOG_EVERY == 0:
                    clock.losses.append(float(step.loss))  # The look that `em train` takes, too.
                for watcher in watchers:
                    watcher.after(step.number)
            if training.captured is not None and training.captured.seconds is not None:
                launched, again = training.captured.seconds
                tried = 1000 * launched, 1000 * again
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    estimate = float("nan")
    if variant.plan is not None and variant.plan.compiled:
        plan, rows = variant.plan, prepared.encoded.rows
        estimate = held + OPTIMIZER_BYTES * trainable
        estimate += activation_bytes(rows, model.config, plan.rows, checkpointing=plan.checkpointing)
    order = rows_of_epoch(0, 0, len(prepared.encoded.rows), prepared.schedule.steps_per_epoch * 16)
    timed = [len(prepared.encoded.rows[i]["input_ids"]) for i in order[warm_up * 16 : steps * 16]]
    seconds = (clock.ended - clock.warm) / (steps - warm_up)
    bound = 4 * parameters * sum(timed) / (steps - warm_up) / rate
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else float("nan")
    return Measured(
        shape, variant.name, 1000 * seconds, sum(timed) / (steps - warm_up) / seconds, bound / seconds, peak,
        estimate / 2**30, clock.warm - clock.began,
        clock.losses[-1] if clock.losses else float("nan"), replayed, tried,
    )  # fmt: skip


LADDER = (
    Variant("plain: Trainer, QLoRA, padded, 8x2, checkpointing", "nf4", None),
    Variant("+ padding-free, head where labelled", "nf4", BatchPlan(8, 2, True, False)),
    Variant("+ one batch of 16", "nf4", BatchPlan(16, 1, True, False)),
    Variant("+ no checkpointing", "nf4", BatchPlan(16, 1, False, False)),
    Variant("+ dequantised", "nf4_dequantised", BatchPlan(16, 1, False, False)),
    Variant("+ compiled layers", "nf4_dequantised", BatchPlan(16, 1, False, True)),
    Variant("+ recorded passes: em train", "nf4_dequantised", BatchPlan(16, 1, False, True, True)),
    Variant("em train, 8x2", "nf4_dequantised", BatchPlan(8, 2, False, True)),
    Variant("em train, checkpointing", "nf4_dequantised", BatchPlan(16, 1, True, True)),
    Variant("em train, nf4", "nf4", BatchPlan(16, 1, False, True)),
    Variant("em train, nf4, 8x2", "nf4", BatchPlan(8, 2, False, True)),
    Variant("em train, nf4, checkpointing", "nf4", BatchPlan(16, 1, True, True)),
    Variant("em train, nf4, 8x2, checkpointing", "nf4", BatchPlan(8, 2, True, True)),
    Variant("plain, in bf16", "bf16", None),
    Variant("competent: Trainer, bf16, padded, 16x1", "bf16", None, 16, 1, checkpointing=False),
    Variant("competent: Trainer, bf16, flattened, 16x1", "bf16", None, 16, 1, checkpointing=False, flattened=True),
    Variant("+ recorded passes, faster or not", "nf4_dequantised", BatchPlan(16, 1, False, True, True), forced=True),
)


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1B", "3B", "8B"], choices=list(SHAPES))
    parser.add_argument("--variants", nargs="+", type=int, help="Lines of the ladder, from 0; all unless given.")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--longest", type=int, help="Give every row this many tokens, all of them reply.")
    parser.add_argument("--profile", action="store_true", help="Print where the time goes; slows the steps down.")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    rate = matrix_rate()
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{machine}, torch {torch.__version__}, {rate / 1e12:.1f} TFLOP/s bf16", flush=True)
    found: list[Measured] = []
    for shape in options.shapes:
        for number in options.variants or range(len(LADDER)):
            variant = LADDER[number]
            if shape == "tiny":
                variant = replace(variant, precision="fp32" if variant.precision != "bf16" else "bf16")
            if variant.plan is not None and not torch.cuda.is_available():
                variant = replace(variant, plan=replace(variant.plan, compiled=False, captured=False))
            try:
                found.append(
                    measure(shape, variant, rate, options.steps, options.warm_up, options.longest, options.profile)
                )
            except torch.OutOfMemoryError as error:
                print(f"{shape:>4} {variant.name}: out of memory ({str(error)[:80]})", flush=True)
                continue
            m = found[-1]
            print(
                f"{m.shape:>4} {m.ms:8.1f} ms {m.tokens_per_second:8.0f} tok/s {100 * m.bound_share:5.1f} % of 4N "
                f"{m.peak_gib:6.2f} GiB (estimated {m.estimated_gib:6.2f})  warm-up {m.warm_up_s:5.1f} s  "
                f"loss {m.loss:.3f}  {m.variant}"
                + (f"; {m.replayed} steps replayed" if m.replayed else "")
                + ("; tried: {:.1f} ms launched, {:.1f} replayed".format(*m.tried) if m.tried else ""),
                flush=True,
            )
            if options.out:
                options.out.write_text(json.dumps({"machine": machine, "rate": rate, "lines": [*map(asdict, found)]}))


if __name__ == "__main__":
    main()
