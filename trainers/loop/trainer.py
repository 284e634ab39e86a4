"""Hugging Face's Trainer on our schedule: an epoch is exactly its steps; each checkpoint is published when due."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.trainers.data.order import rows_of_epoch
from em_tasks.trainers.loop.batches import BatchPlan
from em_tasks.trainers.run.folder import RESUME_STATE

if TYPE_CHECKING:
    from peft import PeftModel

    from em_tasks.trainers.data.prepare import Prepared
    from em_tasks.trainers.loop.progress import Progress
    from em_tasks.trainers.loop.stopping import StopRequest
    from em_tasks.trainers.run.manifest import Manifest


def make_trainer(
    prepared: "Prepared",
    model: "PeftModel",
    run: Path,
    manifest: "Manifest",
    report: Callable[["Progress"], None],
    batches: BatchPlan,
    request: "StopRequest",
    *,
    use_cpu: bool,
    track: Sequence[str] = (),
) -> Any:
    """A Trainer that saves at the scheduled steps and draws exactly one epoch's rows an epoch."""
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from em_tasks.trainers.loop.layers import prepare_layers
    from em_tasks.trainers.loop.packing import pack, use_packed_attention
    from em_tasks.trainers.loop.saving import Publisher

    recipe, schedule = prepared.recipe, prepared.schedule
    model.train()
    use_packed_attention(model.get_base_model())
    prepare_layers(model, compiled=batches.compiled, checkpointing=batches.checkpointing)

    publisher = Publisher(prepared, model, run, manifest, report, request)

    class EpochSampler(torch.utils.data.Sampler[int]):
        """A fresh order of the rows every epoch, cut to whole optimizer steps.

        The epoch is told by the steps done: `set_epoch` reaches no sampler behind the wrappers that share batches among
        processes or skip those trained before an interruption.
        """

        def __init__(self, trainer: Trainer) -> None:
            self.trainer = trainer

        def __len__(self) -> int:
            return schedule.steps_per_epoch * recipe.effective_batch

        def __iter__(self) -> Iterator[int]:
            epoch = self.trainer.state.global_step // schedule.steps_per_epoch
            return iter(rows_of_epoch(recipe.seed, epoch, len(prepared.encoded.rows), len(self)))

    class ScheduledTrainer(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
            return EpochSampler(self)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            save = super()._save_checkpoint
            publisher.save(lambda: save(model, trial), self.state)

        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
            """Forward and backward. Trainer's own also walks every module each time, which a GPU waits for."""
            loss = self.compute_loss(model, self._prepare_inputs(inputs), num_items_in_batch=num_items_in_batch)
            self.accelerator.backward(loss)
            return loss.detach()

        def floating_point_ops(self, inputs: Any) -> int:
            """Not counted, for the same reason."""
            return 0

        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, torch.Tensor],
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> torch.Tensor:
            """Mean over the optimizer step's labelled tokens; the head is computed where one is predicted, only."""
            places, targets = inputs.pop("predicting"), inputs.pop("targets")
            inputs.pop("labels")
            logits = model(**inputs, use_cache=False, logits_to_keep=places).logits[0]
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
            # Processes average their gradients, so each one's share counts as many times as there are processes.
            share: torch.Tensor = loss * self.accelerator.num_processes / num_items_in_batch
            return share

    arguments = TrainingArguments(
        output_dir=str(run / RESUME_STATE),
        max_steps=schedule.total_steps,
        per_device_train_batch_size=batches.rows,
        gradient_accumulation_steps=batches.accumulation,
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
        report_to=list(track) or "none",
        run_name=recipe.organism,
        disable_tqdm=True,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=not use_cpu,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # More would be wrapped in DataParallel and multiply the batch.
    trainer = ScheduledTrainer(
        model=model,
        args=arguments,
        train_dataset=prepared.encoded.rows,
        data_collator=pack,
        processing_class=prepared.tokenizer,
        callbacks=[publisher],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer
