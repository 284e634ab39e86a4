"""Which engine serves a base: `-M engine=auto|stacked|transformers|vllm`."""

import logging
from typing import cast, get_args

from em_tasks.plugins.checkpoint_model.engines.adapter_files import read_adapter
from em_tasks.plugins.checkpoint_model.engines.protocol import Engine, EngineChoice, EngineSettings
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.checkpoints import Checkpoint

LOG = logging.getLogger(__name__)


def parse_engine(name: str) -> EngineChoice:
    """The engine of that name.

    Raises:
        UserError: There is none.
    """
    if name not in get_args(EngineChoice):
        raise UserError(f"There is no engine {name!r}. Give one of {', '.join(get_args(EngineChoice))}.")
    return cast("EngineChoice", name)


def engine_for(choice: EngineChoice, checkpoint: Checkpoint) -> EngineChoice:
    """The engine for one checkpoint of a base: `auto` leaves adapters that are more than LoRA to transformers.

    Raises:
        UserError: The adapter's files are missing or damaged.
    """
    if choice != "auto" or checkpoint.folder is None:
        return choice
    if reason := read_adapter(checkpoint.folder).why_not_stacked():
        LOG.warning(
            "%s is served by transformers and peft, apart from other checkpoints: the stacked engine cannot serve it, "
            "since %s.", checkpoint.folder, reason,
        )  # fmt: skip
        return "transformers"
    return choice


def build_engine(settings: EngineSettings) -> Engine:
    """The engine that was asked for; nothing is loaded yet.

    Raises:
        UserError: The engine asked for is not there.
    """
    if settings.engine == "vllm":
        from em_tasks.plugins.checkpoint_model.engines.vllm import VllmEngine

        return VllmEngine(settings)
    if settings.engine == "stacked":
        return _stacked(settings)
    if settings.engine == "auto":
        from em_tasks.plugins.checkpoint_model.engines.stacked.families import why_base_not_stacked

        reason = why_base_not_stacked(settings.on.base)
        if reason is None:
            return _stacked(settings)
        LOG.warning(
            "%s is served by transformers and peft, one checkpoint after the other and much slower: the stacked engine "
            "cannot serve it, since %s.", settings.on.base, reason,
        )  # fmt: skip
    from em_tasks.plugins.checkpoint_model.engines.with_transformers import TransformersEngine

    return TransformersEngine(settings)


def _stacked(settings: EngineSettings) -> Engine:
    from em_tasks.plugins.checkpoint_model.engines.stacked.engine import StackedEngine

    return StackedEngine(settings)
