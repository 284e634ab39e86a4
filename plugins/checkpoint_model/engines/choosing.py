"""Which engine serves a base: `-M engine=auto|stacked|transformers|vllm`."""

import logging
from typing import cast, get_args

from em_tasks.plugins.checkpoint_model.engines.protocol import Engine, EngineChoice, EngineSettings
from em_tasks.plugins.errors import UserError

LOG = logging.getLogger(__name__)


def parse_engine(name: str) -> EngineChoice:
    """The engine of that name.

    Raises:
        UserError: There is none.
    """
    if name not in get_args(EngineChoice):
        raise UserError(f"There is no engine {name!r}. Give one of {', '.join(get_args(EngineChoice))}.")
    return cast("EngineChoice", name)


def build_engine(settings: EngineSettings) -> Engine:
    """The engine that was asked for; nothing is loaded yet.

    Raises:
        UserError: The engine asked for is not there.
    """
    if settings.engine == "vllm":
        raise UserError(f"The engine {settings.engine} is not here yet. Leave -M engine out.")
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
