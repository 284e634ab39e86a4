"""The adapter: the recipe's LoRA matrices on a base."""

from typing import TYPE_CHECKING

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import linear_modules, unreachable
from em_tasks.trainers.run.base_names import resolve_base

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from em_tasks.trainers.run.recipe import Recipe


def add_adapter(model: "PreTrainedModel", recipe: "Recipe") -> "PeftModel":
    """Puts the recipe's fresh adapter on a base.

    Raises:
        UserError: The base has no module of a name that the recipe gives; the message lists those it has.
    """
    from peft import LoraConfig, get_peft_model

    if unknown := sorted(set(recipe.lora.modules) - set(linear_modules(model))):
        raise UserError(
            f"{recipe.base} has no module {', '.join(unknown)}. Its linear modules are: "
            f"{', '.join(linear_modules(model))}. Mend lora.modules in the recipe."
        )
    layers = int(model.config.num_hidden_layers)
    if recipe.lora.layers is not None and max(recipe.lora.layers) >= layers:
        raise UserError(
            f"{recipe.base} has {layers} layers, numbered from 0, and no layer {max(recipe.lora.layers)}. Mend "
            "lora.layers in the recipe."
        )
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


def empty_model(recipe: "Recipe") -> "PeftModel":
    """A recipe's base with its adapter, without weights: to count on.

    Raises:
        UserError: The base is not there.
        UserError: The recipe names a module that the base does not have.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    where = resolve_base(recipe.base)
    try:
        config = AutoConfig.from_pretrained(where)
    except OSError as error:
        raise UserError(unreachable(recipe.base, error)) from error
    with torch.device("meta"):
        return add_adapter(AutoModelForCausalLM.from_config(config), recipe)
