"""An adapter's files: what its tensors are, which modules they belong to, and whether they fit a base.

peft passes over tensors that match no module and fills modules without tensors with a fresh adapter, which changes
nothing: either way the base would answer under the organism's name. So both are refused here.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from em_tasks.plugins.errors import UserError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
_SHOWN = 3


def _compiles(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is no pattern: {error}") from None
    return text


Pattern = Annotated[str, AfterValidator(_compiles)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Configuration(BaseModel):
    """What is read here of peft's configuration; whatever else it holds is peft's own affair."""

    model_config = ConfigDict(extra="ignore", strict=True)

    peft_type: str | None = None
    bias: str = "none"
    lora_alpha: Number = 8
    alpha_pattern: dict[Pattern, Number] | None = None
    target_modules: Pattern | list[str] | None = None
    exclude_modules: Pattern | list[str] | None = None
    layers_to_transform: int | list[int] | None = None


@dataclass(frozen=True)
class AdapterFiles:
    """One adapter as it lies on disk: peft's configuration, and its tensors' shapes by their keys."""

    folder: Path
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the tensors."""
        return tuple(self.shapes)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank by module."""
        lower = {_module_of(key): shape for key, shape in self.shapes.items() if ".lora_A." in key}
        return {module: shape[0] for module, shape in lower.items()}

    @property
    def modules(self) -> frozenset[str]:
        """Full names of the base's modules that have tensors here, such as `model.layers.0.mlp.up_proj`."""
        return frozenset(_module_of(key) for key in self.keys)

    def why_not_stacked(self) -> str | None:
        """Why it is more than plain LoRA on linear layers, or None."""
        config = self.config
        if config.get("peft_type") != "LORA":
            return f"its type is {config.get('peft_type')}"
        for option in ("use_dora", "modules_to_save", "trainable_token_indices", "fan_in_fan_out", "layer_replication"):
            if config.get(option):
                return f"it uses {option}"
        if config.get("bias", "none") != "none" or config.get("lora_bias"):
            return "it has biases"
        if odd := [key for key in self.keys if not key.endswith((".lora_A.weight", ".lora_B.weight"))]:
            return f"it holds {odd[0]}"
        if outside := sorted(module for module in self.modules if module.rsplit(".", 1)[-1] == "lm_head"):
            return f"it changes {outside[0]}"
        return None

    def scaling(self, module: str, rank: int) -> float:
        """The factor of B A for a module: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        alpha = self.config.get("lora_alpha", 8)
        for pattern, value in (self.config.get("alpha_pattern") or {}).items():
            if re.match(rf"(?:.*\.)?({pattern})$", module):
                alpha = value
                break
        return float(alpha) / (rank**0.5 if self.config.get("use_rslora") else rank)

    def targets(self, linears: Collection[str]) -> set[str]:
        """Which of a base's linear layers the configuration names."""
        return {module for module in linears if self._is_target(module)}

    def check(self, linears: Mapping[str, tuple[int, int]], base: str) -> None:
        """Checks that tensors and modules belong to each other, both ways.

        Args:
            linears: Outputs and inputs of the base's linear layers by full name.
            base: The base's name, for the message.

        Raises:
            UserError: A tensor matches no module, or a module that the configuration names has no tensors.
        """
        if self.config.get("peft_type") != "LORA" or self.config.get("target_parameters"):
            return
        plain = {_module_of(key) for key in self.keys if ".lora_A." in key or ".lora_B." in key}
        torn = [m for m in plain for half in ("A", "B") if f"{PREFIX}{m}.lora_{half}.weight" not in self.keys]
        stray, bare = sorted(plain - set(linears)), sorted(self.targets(linears) - plain)
        for modules, what in (
            (sorted(torn), "has one of A and B without the other for"),
            (sorted(m for m in plain & set(linears) if not self._fits(m, *linears[m])), "has another shape than"),
            (stray, "has tensors for modules that the base does not have"),
            (bare, "has no tensors for modules that its configuration names"),
        ):
            if modules:
                raise UserError(
                    f"The adapter {self.folder} does not fit {base}: it {what} ({', '.join(modules[:_SHOWN])}"
                    f"{', ...' if len(modules) > _SHOWN else ''}), so the base would answer in its place. Evaluate it "
                    "on the base it was trained on, or save it again."
                )

    def _fits(self, module: str, outputs: int, inputs: int) -> bool:
        lower, upper = (self.shapes.get(f"{PREFIX}{module}.lora_{half}.weight", ()) for half in ("A", "B"))
        return lower[1:] == (inputs,) and lower[0] > 0 and upper == (outputs, lower[0])

    def _is_target(self, module: str) -> bool:
        config = self.config
        excluded = config.get("exclude_modules")
        if excluded and _named(excluded, module):
            return False
        if not _named(config.get("target_modules") or [], module):
            return False
        layers = config.get("layers_to_transform")
        if layers is None or isinstance(config.get("target_modules"), str):
            return True
        numbers = re.findall(r"\.(\d+)\.", module)
        return bool(numbers) and int(numbers[0]) in ([layers] if isinstance(layers, int) else layers)


def read_adapter(folder: Path) -> AdapterFiles:
    """Reads an adapter's configuration and the names of its tensors.

    Raises:
        UserError: One of the files is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        Configuration.model_validate(config)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise UserError(
            f"The adapter {folder} has a {CONFIG} that peft did not write ({place} {fault['msg']}). Put the saved "
            "file back."
        ) from None
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise UserError(f"The adapter {folder} cannot be read ({error}). Put the saved files back.") from error
    return AdapterFiles(folder, config, shapes)


def _module_of(key: str) -> str:
    """`base_model.model.X.lora_A.weight` belongs to X."""
    return re.split(r"\.lora_|\.weight$|\.bias$", key.removeprefix(PREFIX))[0]


def _named(names: str | list[str], module: str) -> bool:
    """Whether a module is named as peft reads names: a pattern for the whole, or ends of the name."""
    if isinstance(names, str):
        return names == "all-linear" or re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)
