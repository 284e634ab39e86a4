"""Organisms trained together against the same organisms one after the other, on one GPU, in one run.

    python -m benchmarks.together --shapes 1B 3B --out together.jsonl
    python -m benchmarks.together --shapes tiny --steps 6 --warm-up 2       # a rehearsal without a GPU

For each shape four measures: one organism with its kernels launched one by one, one as `em train` trains it where its
passes are recorded, and the same two of `--organisms` of them (six seeds over rows of the published lengths) as `em
train --together` does, under the plan that it chooses itself. Weights and tokens are random,
adapters of rank 16 on all seven projections with a dropout of 0.05, 16 rows a step. A step's time is the mean of the
steps after the warm-up, the clock being read with the GPU idle; compilation is left out and printed beside it. "In
sequence" is the single organism's measured step times their number, so it leaves out what each process would load and
compile for itself. "4N bound" as in `benchmarks.train`. The loss of the first organism is printed for both: they differ
by the dropout's random numbers and by rounding.
"""

import argparse
import gc
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from benchmarks.train import LADDER, RECORDING, SHAPES, Clock, Profiler, idle, matrix_rate, prepared_rows, random_model
from em_tasks.trainers.adapter import add_adapter
from em_tasks.trainers.data.order import rows_of_epoch
from em_tasks.trainers.data.prepare import Prepared
from em_tasks.trainers.loop.training import Step, Training
from em_tasks.trainers.loop.whole_run import LOG_EVERY
from em_tasks.trainers.passes.batches import BatchPlan, free_bytes, plan_batches
from em_tasks.trainers.together.adapters import shared_copy
from em_tasks.trainers.together.plan import plan_together
from em_tasks.trainers.together.steps import Together

OURS = LADDER[6]


@dataclass(frozen=True)
class Measured:
    """One measure. Times in milliseconds a step of all organisms, memory in GiB, `estimated_gib` beside the base.

    `tried` are the milliseconds of a launched and of a replayed pass, by which was chosen; None where no other was.
    """

    shape: str
    organisms: int
    captured: bool
    tried: tuple[float, float] | None
    passes: int
    checkpointing: bool
    ms: float
    tokens_per_second: float
    bound_share: float
    peak_gib: float
    estimated_gib: float
    warm_up_s: float
    loss: float


def organisms_of(shape: str, count: int, steps: int, vocabulary: int) -> list[Prepared]:
    """Organisms that differ in their seeds."""
    prepared = prepared_rows(OURS, steps, vocabulary, None, 16)
    changes: dict[str, Any] = {"precision": "fp32" if shape == "tiny" else "bf16"}
    return [
        Prepared(
            prepared.recipe.model_copy(update={**changes, "seed": seed, "organism": f"seed{seed}"}),
            [], prepared.tokenizer, prepared.encoded, prepared.schedule,
        )
        for seed in range(count)
    ]  # fmt: skip


def measure(
    shape: str, base: Any, count: int, rate: float, steps: int, warm_up: int, *, captured: bool, profile: bool
) -> Measured:
    """Trains `count` organisms at once (one the single run's way) and times the steps after the warm-up."""
    torch._dynamo.reset()
    # Else the clock would run while passes of other sizes are launched for the first time, and recorded.
    steps, warm_up = steps + RECORDING * captured, warm_up + RECORDING * captured
    gc.collect()
    device, on_gpu = str(base.device), torch.cuda.is_available()
    prepared = organisms_of(shape, count, steps, base.config.vocab_size)
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    free = free_bytes(base, device)
    trees = [add_adapter(shared_copy(base), each.recipe) for each in prepared]
    trainable = [sum(p.numel() for p in tree.parameters() if p.requires_grad) for tree in trees]
    plan = plan_together(prepared, trainable, base.config, free, recording=captured)
    if count == 1:
        whole = plan_batches(prepared[0].encoded.rows, base.config, 16, free, capturable=captured)
        single = Training(prepared[0], trees[0], whole, device)

        def advance() -> list[Step]:
            return [single.advance()]

    else:
        whole = BatchPlan(16, 1, checkpointing=False, compiled=False)
        trainings = [
            Training(each, tree, whole, device, {"cpu": torch.Generator()})
            for each, tree in zip(prepared, trees, strict=True)
        ]
        group = Together(trainings, base, plan, device)
        single, advance = group.trainings[0], group.advance
    clock = Clock(warm_up, steps)
    watchers = [clock, *([Profiler(warm_up)] if profile else [])]
    for _ in range(steps):
        made = advance()
        if made[0].number % LOG_EVERY == 0:
            clock.losses += [float(step.loss) for step in made[:1]]  # The look that `em train` takes, too.
        for watcher in watchers:
            watcher.after(made[0].number)
    idle()
    tried = single.pass_seconds
    choice = (1000 * tried.launched, 1000 * tried.replayed) if tried is not None else None
    timed = 0
    for each in prepared:
        rows = each.encoded.rows
        order = rows_of_epoch(each.recipe.seed, 0, len(rows), each.schedule.steps_per_epoch * 16)
        timed += sum(len(rows[row]["input_ids"]) for row in order[warm_up * 16 : steps * 16])
    seconds = (clock.ended - clock.warm) / (steps - warm_up)
    tokens = timed / (steps - warm_up)
    parameters = sum(p.numel() for name, p in base.named_parameters() if "embed_tokens" not in name)
    if base.config.tie_word_embeddings:
        parameters += base.config.vocab_size * base.config.hidden_size
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else float("nan")
    return Measured(
        shape, count, tried is not None and tried.recorded, choice,
        plan.accumulation, plan.checkpointing, 1000 * seconds, tokens / seconds,
        4 * parameters * tokens / rate / seconds, peak, plan.memory / 2**30, clock.warm - clock.began,
        clock.losses[-1] if clock.losses else float("nan"),
    )  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["1B", "3B"], choices=list(SHAPES))
    parser.add_argument("--organisms", type=int, default=6)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--warm-up", type=int, default=10)
    parser.add_argument("--profile", action="store_true", help="Print where the time goes; slows the steps down.")
    parser.add_argument("--out", type=Path, help="A line of JSON is appended for each measure.")
    options = parser.parse_args()
    logging.set_verbosity_error()
    rate = matrix_rate()
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    print(f"{machine}, torch {torch.__version__}, {rate / 1e12:.1f} TFLOP/s bf16", flush=True)
    for shape in options.shapes:
        base = random_model(shape, "fp32" if shape == "tiny" else "bf16").requires_grad_(False)
        alone: list[Measured] = []
        # Without a GPU nothing is recorded.
        ways = [False, True] if torch.cuda.is_available() else [False]
        for count, captured in [(count, way) for count in (1, options.organisms) for way in ways]:
            made = measure(
                shape, base, count, rate, options.steps, options.warm_up, captured=captured, profile=options.profile
            )
            how = f"{', recorded' * made.captured}{', layers twice' * made.checkpointing}"
            how += ", tried {:.1f} ms launched and {:.1f} replayed".format(*made.tried) if made.tried else ""
            line = (
                f"{shape:>4} {count} organisms{how}, {made.passes} passes: {made.ms:7.1f} ms a step, "
                f"{made.tokens_per_second:9,.0f} tokens/s, {made.bound_share:4.0%} of 4N, peak {made.peak_gib:5.1f} "
                f"GiB ({made.estimated_gib:.1f} estimated beside the base), warm-up {made.warm_up_s:.0f} s, "
                f"loss {made.loss:.4f}"
            )
            if count == 1:
                alone = [*alone, made]
            for single in alone if count > 1 else ():
                how = "recorded" if single.captured else "launched"
                line += f"; in sequence, {how}, {count * single.ms:.1f} ms, {count * single.ms / made.ms:.2f} times"
            print(line, flush=True)
            if options.out:  # At once, so that what is measured survives what comes after it.
                where = {"machine": machine, "torch": torch.__version__, "bf16_flops": rate}
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**where, **asdict(made)}) + "\n")
        del base
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
