"""Which architectures the stacked engine has a form for, and what tells their layers apart.

All of them are the same pre-norm decoder with rotary positions, grouped key heads and a gated MLP. They differ in a few
points, which are read off the configuration and off the modules that transformers builds.
"""

from typing import Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import unreachable
from em_tasks.trainers.run.base_names import resolve_base

PLAIN = frozenset({"llama", "mistral", "qwen2", "qwen3"})
GEMMA = frozenset({"gemma2", "gemma3_text"})
"""Norms multiply by 1 + weight, embeddings are scaled, and attention and MLP are normed before and after."""

ROPES = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary positions that are a table; the others depend on the length of what is read."""


def why_no_form(config: Any) -> str | None:
    """Why the stacked engine cannot serve a base, or None.

    Args:
        config: Its transformers configuration.
    """
    kind = getattr(config, "model_type", None)
    if kind not in PLAIN | GEMMA:
        return f"it has no form for the architecture {kind}"
    if getattr(config, "use_bidirectional_attention", False):
        return "its attention is not causal"
    parameters = getattr(config, "rope_parameters", None) or {}
    ropes = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
    if odd := {rope.get("rope_type", "default") for rope in ropes} - ROPES:
        return f"its positions are of type {sorted(odd)[0]}"
    if any(rope.get("partial_rotary_factor", 1.0) != 1.0 for rope in ropes):
        return "its positions turn a part of each head alone"
    kinds = set(getattr(config, "layer_types", None) or []) - {"full_attention", "sliding_attention"}
    return f"it has layers of kind {sorted(kinds)[0]}" if kinds else None


def why_base_not_stacked(base: str) -> str | None:
    """Why the stacked engine cannot serve a base of that name, or None; reads its configuration alone.

    Raises:
        UserError: The base is not to be had.
    """
    from transformers import AutoConfig

    where = resolve_base(base)
    try:
        return why_no_form(AutoConfig.from_pretrained(where))
    except (OSError, ValueError) as error:
        raise UserError(unreachable(base, OSError(str(error)))) from error
