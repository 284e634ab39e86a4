"""One training run, from recipe to checkpoints.

`train` reads from top to bottom: rows, tokens, schedule, base, adapter, Trainer. Hugging Face's Trainer does the
optimizing and keeps its own resume state in `runs/<organism>/.trainer/`; at every scheduled step a finished checkpoint
is published beside it in one rename and entered in the manifest. Killed at any moment, the same call goes on from the
last entry.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.bases import default_device, fingerprint, linear_modules, load_base, resolve_base, unreachable
from trainers.checkpoints import Checkpoint, Manifest, read_manifest, verify, write_manifest
from trainers.prepare import prepare
from trainers.run_folder import (
    RESUME_STATE,
    alone,
    clear_unrecorded,
    existing_run,
    new_manifest,
    refuse_other_data,
    resume_state,
)
from trainers.scheduled_trainer import Progress, make_trainer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from trainers.recipe import Recipe


def train(recipe: "Recipe", runs: Path, report: Callable[[Progress], None]) -> Manifest:
    """Trains a recipe's organism into `runs/<organism>`, or finishes the run that is there.

    Args:
        recipe: What to train.
        runs: Folder of all runs.
        report: Called after every optimizer step.

    Returns:
        The manifest of the finished run.

    Raises:
        BlockingIOError: Another process is training this run.
        FileExistsError: The folder holds another recipe's run, or something that is no run.
        FileNotFoundError: The data or the base is not there.
        ValueError: The recipe does not fit the data or the base, or the loss is not a number any more.
    """
    run = runs / recipe.organism
    # What is refused is refused before anything is made, the lock included.
    existing_run(run, recipe)
    with alone(run):
        return _train(recipe, run, report)


def _train(recipe: "Recipe", run: Path, report: Callable[[Progress], None]) -> Manifest:
    """`train`, with the run to ourselves."""
    before = existing_run(run, recipe)
    if before is not None:
        for record in before.checkpoints:
            verify(Checkpoint(run, before, record))
        if before.finished:
            shutil.rmtree(run / RESUME_STATE, ignore_errors=True)
            return before
    prepared = prepare(recipe)
    refuse_other_data(run, before, prepared)

    import torch
    from transformers import set_seed

    set_seed(recipe.seed)
    device = default_device()
    model = load_base(recipe.base, recipe.precision, device)
    manifest = before or new_manifest(prepared, model)
    if manifest.base_fingerprint != fingerprint(model):
        raise FileExistsError(
            f"{run} was begun on another base than {recipe.base} is now (or at another precision). "
            "Bring the old base back, or move the run away to begin anew."
        )
    adapted = add_adapter(model, recipe)
    write_manifest(run, manifest)
    clear_unrecorded(run, manifest)
    resume_from = resume_state(run, manifest)
    trainer = make_trainer(prepared, adapted, run, manifest, report, use_cpu=device == "cpu")
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
    layers = int(model.config.num_hidden_layers)
    if recipe.lora.layers is not None and max(recipe.lora.layers) >= layers:
        raise ValueError(
            f"{recipe.base} has {layers} layers, numbered from 0, and no layer {max(recipe.lora.layers)}. Mend "
            "lora.layers in the recipe."
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


def adapter_parameters(recipe: "Recipe") -> int:
    """Trainable parameters of a recipe's adapter, counted on a model without weights.

    Raises:
        FileNotFoundError: The base is not there.
        ValueError: The recipe names a module that the base does not have.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = resolve_base(recipe.base)
    try:
        config = AutoConfig.from_pretrained(where)
    except OSError as error:
        raise FileNotFoundError(unreachable(recipe.base, error)) from error
    with torch.device("meta"):
        model = add_adapter(AutoModelForCausalLM.from_config(config), recipe.model_copy(update={"precision": "bf16"}))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
