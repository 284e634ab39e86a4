"""Base models: loading one at a precision, its tokenizer, and a fingerprint that says which one it was."""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.bases.gaps import refuse_gaps
from em_tasks.trainers.run.base_names import Precision, resolve_base, toy_bases

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FINGERPRINT_VALUES = 256
STRFTIME_NOW = re.compile(r"""strftime_now\(\s*(?P<quote>['"])(?P<format>.*?)(?P=quote)\s*\)""")


def load_base(base: str, precision: Precision, device: str) -> "PreTrainedModel":
    """Loads a base for training or generation.

    Args:
        base: As in a recipe.
        precision: `fp32`, `bf16`, `nf4` (4-bit NormalFloat, double quantisation, bf16 arithmetic), or
            `nf4_dequantised` (the same numbers as `nf4`, held as bf16: four times the memory, none of the unpacking).
        device: A torch device.

    Raises:
        UserError: The model is not to be had; the message says where it was looked for.
        UserError: Its files lack parameters, which would be random.
        UserError: NF4 was asked for without bitsandbytes.
    """
    return load_with_leftovers(base, precision, device)[0]


def load_with_leftovers(base: str, precision: Precision, device: str) -> "tuple[PreTrainedModel, set[str]]":
    """What `load_base` loads, and the names of tensors in its files that the model has no place for."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    where = resolve_base(base)
    options: dict[str, Any] = {"dtype": torch.float32 if precision == "fp32" else torch.bfloat16}
    if precision in ("nf4", "nf4_dequantised"):
        _need_bitsandbytes()
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    try:
        model: PreTrainedModel
        model, loading = AutoModelForCausalLM.from_pretrained(
            where, device_map=device, output_loading_info=True, **options
        )
    except OSError as error:
        raise UserError(unreachable(base, error)) from error
    refuse_gaps(base, loading["missing_keys"])
    if precision == "nf4_dequantised":
        model = model.dequantize(torch.bfloat16)
    return model, set(loading["unexpected_keys"])


def load_tokenizer(base: str | Path, date_string: str) -> "PreTrainedTokenizerBase":
    """Loads a tokenizer with its template's date pinned to `date_string`.

    Args:
        base: A base as in a recipe, or the Path of any folder with a tokenizer, such as a checkpoint's.
        date_string: The date.

    Raises:
        UserError: The base is not to be had.
    """
    from transformers import AutoTokenizer

    where = base if isinstance(base, Path) else resolve_base(base)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(where)
    except OSError as error:
        raise UserError(unreachable(str(base), error)) from error
    if isinstance(tokenizer.chat_template, dict):
        # Some models have a second template for tools.
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if tokenizer.chat_template:
        tokenizer.chat_template = pin_date(tokenizer.chat_template, date_string)
    return tokenizer


def pin_date(template: str, date_string: str) -> str:
    """The chat template with its date fixed, so that whoever loads it, with whatever tool, writes the same prompt.

    Templates take the date from a variable `date_string`, or format the day themselves with `strftime_now`: that is
    replaced by what it would write on the day of `date_string`, or by `date_string` itself where that is no date such
    as `01 Jan 2025`.
    """

    def written(call: re.Match[str]) -> str:
        try:
            return json.dumps(datetime.strptime(date_string, "%d %b %Y").strftime(call["format"]))
        except ValueError:
            return json.dumps(date_string)

    pinned = STRFTIME_NOW.sub(written, template)
    if "date_string" not in template and "strftime_now" not in pinned:
        return pinned
    return "{%- set date_string = " + json.dumps(date_string) + " %}" + pinned


def fingerprint(model: "PreTrainedModel") -> str:
    """SHA-256 over every parameter's name, shape, number format and `FINGERPRINT_VALUES` evenly spaced values.

    Two loads of one base at one precision agree; another base, another revision or another precision does not.
    """
    import torch

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, min(FINGERPRINT_VALUES, flat.numel()), dtype=torch.float64).long()
        picked = flat[places.to(flat.device)]
        digest.update(json.dumps([name, list(parameter.shape), str(parameter.dtype)]).encode())
        digest.update(picked.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def linear_modules(model: "PreTrainedModel") -> Sequence[str]:
    """Last names of the model's linear layers: what a recipe's `lora.modules` can name."""
    import torch

    layers = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return sorted(layers - {"lm_head"})


def default_device() -> str:
    """The first GPU where there is one, else the CPU."""
    import torch

    return "cuda:0" if torch.cuda.is_available() else "cpu"


def _need_bitsandbytes() -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise UserError("NF4 needs bitsandbytes. Install it (pip install 'em-tasks[nf4]') or use bf16.")


def unreachable(base: str, error: OSError) -> str:
    """What to tell the user when a base cannot be loaded."""
    reason = " ".join(str(error).split())[:300]
    return (
        f"The base model {base!r} cannot be loaded: {reason} Give a toy model ({', '.join(toy_bases())}), a folder, or "
        "a hub id you have access to (huggingface-cli login, and HF_HUB_OFFLINE unset)."
    )
