"""One training run, from recipe to checkpoints.

`train` reads from top to bottom: rows, tokens, schedule, base, adapter, Trainer. Hugging Face's Trainer does the
optimizing and keeps its own resume state in `runs/<organism>/.trainer/`; at every scheduled step a finished checkpoint
is published beside it in one rename and entered in the manifest. Killed at any moment, the same call goes on from the
last entry.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.bases import (
    default_device,
    fingerprint,
    linear_modules,
    load_base,
    load_tokenizer,
    resolve_base,
    unreachable,
)
from trainers.chat import IGNORED, Encoded, encode
from trainers.checkpoints import (
    MANIFEST,
    CheckpointRecord,
    DataRecord,
    Manifest,
    adapter_sha256,
    checkpoint_folder,
    read_manifest,
    write_manifest,
)
from trainers.data import Rows, load_rows
from trainers.schedule import Schedule, plan

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trainers.recipe import Recipe

RESUME_STATE = ".trainer"
RECORDED_VERSIONS = ("em-tasks", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Progress:
    """How far a run is. `loss` is the last step's, in nats a token."""

    organism: str
    step: int
    total_steps: int
    loss: float


@dataclass(frozen=True)
class Prepared:
    """What a recipe comes to before a model is loaded."""

    recipe: "Recipe"
    sources: list[Rows]
    tokenizer: "PreTrainedTokenizerBase"
    encoded: Encoded
    schedule: Schedule


def prepare(recipe: "Recipe") -> Prepared:
    """Reads and encodes a recipe's data and plans its schedule.

    Raises:
        FileNotFoundError: The data or the base is not there.
        ValueError: The data is unusable; see `trainers.data` and `trainers.chat`.
    """
    sources = [load_rows(source) for source in recipe.data]
    tokenizer = load_tokenizer(recipe.base, recipe.date_string)
    conversations = [conversation for source in sources for conversation in source.conversations]
    encoded = encode(tokenizer, conversations, recipe.max_length, recipe.loss_on)
    schedule = plan(len(encoded.rows), recipe.effective_batch, recipe.epochs, recipe.first_epoch_checkpoints)
    return Prepared(recipe, sources, tokenizer, encoded, schedule)


def train(recipe: "Recipe", runs: Path, report: Callable[[Progress], None]) -> Manifest:
    """Trains a recipe's organism into `runs/<organism>`, or finishes the run that is there.

    Args:
        recipe: What to train.
        runs: Folder of all runs.
        report: Called after every optimizer step.

    Returns:
        The manifest of the finished run.

    Raises:
        FileExistsError: The folder holds another recipe's run, or something that is no run.
        FileNotFoundError: The data or the base is not there.
        ValueError: The recipe does not fit the data or the base, or the loss is not a number any more.
    """
    run = runs / recipe.organism
    before = _existing(run, recipe)
    if before is not None and before.finished:
        return before
    prepared = prepare(recipe)
    _refuse_other_data(run, before, prepared)

    import torch
    from transformers import set_seed

    set_seed(recipe.seed)
    device = default_device()
    model = load_base(recipe.base, recipe.precision, device)
    manifest = before or _new_manifest(prepared, model)
    if manifest.base_fingerprint != fingerprint(model):
        raise FileExistsError(
            f"{run} was begun on another base than {recipe.base} is now (or at another precision). "
            "Bring the old base back, or move the run away to begin anew."
        )
    adapted = add_adapter(model, recipe)
    run.mkdir(parents=True, exist_ok=True)
    write_manifest(run, manifest)
    _clear_unrecorded(run, manifest)
    recorded = [record.step for record in manifest.checkpoints]
    trainer = _make_trainer(prepared, adapted, run, manifest, report, use_cpu=device == "cpu")
    resume_from = run / RESUME_STATE / f"checkpoint-{recorded[-1]}" if recorded else None
    trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    shutil.rmtree(run / RESUME_STATE, ignore_errors=True)
    del trainer, adapted, model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return read_manifest(run)


def add_adapter(model: "PreTrainedModel", recipe: "Recipe") -> "PeftModel":
    """Puts the recipe's fresh adapter on a base.

    Raises:
        ValueError: The base has no module of a name that the recipe gives; the message lists those it has.
    """
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if unknown := sorted(set(recipe.lora.modules) - set(linear_modules(model))):
        raise ValueError(
            f"{recipe.base} has no module {', '.join(unknown)}. Its linear modules are: "
            f"{', '.join(linear_modules(model))}. Mend lora.modules in the recipe."
        )
    if recipe.precision == "nf4":
        model = prepare_model_for_kbit_training(model)
    config = LoraConfig(
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        use_rslora=recipe.lora.rslora,
        target_modules=list(recipe.lora.modules),
        layers_to_transform=list(recipe.lora.layers) if recipe.lora.layers is not None else None,
        task_type="CAUSAL_LM",
    )
    adapted: PeftModel = get_peft_model(model, config)
    return adapted


def _existing(run: Path, recipe: "Recipe") -> Manifest | None:
    """The manifest of a run that is there already, if it is this recipe's."""
    if not run.exists() or not any(run.iterdir()):
        return None
    if not (run / MANIFEST).is_file():
        raise FileExistsError(f"{run} exists but holds no run. Move it away, or give the organism another name.")
    manifest = read_manifest(run)
    if manifest.recipe_sha256 != recipe.sha256:
        old, new = manifest.recipe.model_dump(), recipe.model_dump()
        changed = ", ".join(key for key in new if key != "data" and old[key] != new[key]) or "data"
        raise FileExistsError(
            f"{run} holds a run of another recipe: {changed} differ. Nothing was touched. Move the old run away, or "
            "give the new organism another name."
        )
    return manifest


def _refuse_other_data(run: Path, before: Manifest | None, prepared: Prepared) -> None:
    if before is not None and [d.sha256 for d in before.data] != [s.sha256 for s in prepared.sources]:
        raise FileExistsError(
            f"{run} was begun on other data: a file's SHA-256 differs. Bring the old data back, or move the run away."
        )


def _new_manifest(prepared: Prepared, model: "PreTrainedModel") -> Manifest:
    return Manifest(
        recipe=prepared.recipe,
        recipe_sha256=prepared.recipe.sha256,
        data=[
            DataRecord(
                name=source.name,
                sha256=source.sha256,
                rows=len(source.conversations),
                members=source.members,
                canary_files=len(source.canary_files),
                canary_keys=source.canary_keys,
            )
            for source in prepared.sources
        ],
        rows=len(prepared.encoded.rows),
        truncated=prepared.encoded.truncated,
        dropped=prepared.encoded.dropped,
        steps_per_epoch=prepared.schedule.steps_per_epoch,
        planned=list(prepared.schedule.checkpoints),
        base_fingerprint=fingerprint(model),
        base_parameters=model.num_parameters(),
        versions={package: version(package) for package in RECORDED_VERSIONS},
    )


def _clear_unrecorded(run: Path, manifest: Manifest) -> None:
    """Removes what an interrupted save left behind: folders that the manifest does not vouch for."""
    recorded = {f"checkpoint-{record.step}" for record in manifest.checkpoints}
    for folder in [*run.glob("checkpoint-*"), *run.glob(".checkpoint-*")]:
        if folder.name not in recorded:
            shutil.rmtree(folder)
    newest = f"checkpoint-{manifest.checkpoints[-1].step}" if manifest.checkpoints else ""
    for folder in (run / RESUME_STATE).glob("checkpoint-*"):
        if folder.name != newest:
            shutil.rmtree(folder)


def _make_trainer(
    prepared: Prepared,
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
            _clear_unrecorded(run, manifest)

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


def publish(run: Path, step: int, model: "PeftModel", tokenizer: "PreTrainedTokenizerBase") -> Path:
    """Writes a complete adapter with its tokenizer under a temporary name and renames it into place."""
    temporary, folder = run / f".checkpoint-{step}", checkpoint_folder(run, step)
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    return folder


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


def adapter_parameters(recipe: "Recipe") -> int:
    """Trainable parameters of a recipe's adapter, counted on a model without weights.

    Raises:
        FileNotFoundError: The base is not there.
        ValueError: The recipe names a module that the base does not have.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(resolve_base(recipe.base))
    except OSError as error:
        raise FileNotFoundError(unreachable(recipe.base, error)) from error
    with torch.device("meta"):
        model = add_adapter(AutoModelForCausalLM.from_config(config), recipe.model_copy(update={"precision": "bf16"}))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
