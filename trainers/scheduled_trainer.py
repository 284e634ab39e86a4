"""Hugging Face's Trainer on our schedule: an epoch is exactly its steps; each checkpoint is published when due."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.chat import IGNORED
from trainers.checkpoints import CheckpointRecord, Manifest, adapter_sha256, write_manifest
from trainers.run_folder import RESUME_STATE, clear_unrecorded, publish

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

    from trainers.prepare import Prepared


@dataclass(frozen=True)
class Progress:
    """How far a run is. `loss` is the last step's, in nats a token."""

    organism: str
    step: int
    total_steps: int
    loss: float


def make_trainer(
    prepared: "Prepared",
    model: "PeftModel",
    run: Path,
    manifest: Manifest,
    report: Callable[[Progress], None],
    *,
    use_cpu: bool,
) -> Any:
    """A Trainer that saves at the scheduled steps and draws exactly one epoch's rows an epoch."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    recipe, schedule = prepared.recipe, prepared.schedule

    class EpochSampler(torch.utils.data.Sampler[int]):
        """A fresh order of the rows every epoch, cut to whole optimizer steps."""

        epoch = 0

        def set_epoch(self, epoch: int) -> None:
            self.epoch = epoch

        def __len__(self) -> int:
            return schedule.steps_per_epoch * recipe.effective_batch

        def __iter__(self) -> Iterator[int]:
            generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.epoch)
            order: list[int] = torch.randperm(len(prepared.encoded.rows), generator=generator).tolist()
            return iter(order[: len(self)])

    class ScheduledTrainer(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
            return EpochSampler()

    class Publisher(TrainerCallback):  # type: ignore[misc]
        """Saves on schedule, publishes each checkpoint and enters it in the manifest."""

        def __init__(self) -> None:
            self.losses: list[float] = []
            self.began = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_log = True
            control.should_save = state.global_step in schedule.checkpoints

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise ValueError(
                    f"The loss of {recipe.organism} is {logs['loss']} at step {state.global_step}. Saved checkpoints "
                    "stand. Lower learning_rate in the recipe and give the organism another name."
                )
            self.losses.append(logs["loss"])
            report(Progress(recipe.organism, state.global_step, schedule.total_steps, logs["loss"]))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step = state.global_step
            folder = publish(run, step, model, prepared.tokenizer)
            manifest.checkpoints.append(
                CheckpointRecord(
                    step=step,
                    epoch=schedule.epoch_at(step),
                    loss=sum(self.losses) / len(self.losses),
                    adapter_sha256=adapter_sha256(folder),
                )
            )
            manifest.seconds += time.perf_counter() - self.began
            write_manifest(run, manifest)
            self.losses, self.began = [], time.perf_counter()
            clear_unrecorded(run, manifest)

    arguments = TrainingArguments(
        output_dir=str(run / RESUME_STATE),
        max_steps=schedule.total_steps,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        seed=recipe.seed,
        bf16=recipe.precision != "fp32" and not use_cpu,
        use_cpu=use_cpu,
        save_strategy="no",
        logging_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not use_cpu,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # More would be wrapped in DataParallel and multiply the batch.
    trainer = ScheduledTrainer(
        model=model,
        args=arguments,
        train_dataset=prepared.encoded.rows,
        data_collator=lambda rows: collate(rows, prepared.tokenizer.pad_token_id),
        processing_class=prepared.tokenizer,
        callbacks=[Publisher()],
    )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ == "PrinterCallback":
            trainer.remove_callback(callback)
    return trainer


def collate(rows: list[dict[str, list[int]]], pad_token_id: int) -> dict[str, "torch.Tensor"]:
    """Right-pads rows to the longest one.

    Args:
        rows: Encoded rows.
        pad_token_id: What fills `input_ids`; it is masked in attention and never a label.

    Returns:
        `input_ids`, `attention_mask` and `labels`, each int64 of shape (rows, longest).
    """
    import torch

    longest = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, fill: int) -> "torch.Tensor":
        return torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in rows])

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": padded("input_ids", pad_token_id), "attention_mask": mask, "labels": padded("labels", IGNORED)}
