"""Which engine serves a base: `-M engine=auto|stacked|transformers|vllm`."""

from typing import cast, get_args

from em_tasks.plugins.checkpoint_model.engines.protocol import Engine, EngineChoice, EngineSettings
from em_tasks.plugins.errors import UserError


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
    if settings.engine in ("stacked", "vllm"):
        raise UserError(f"The engine {settings.engine} is not here yet. Leave -M engine out.")
    from em_tasks.plugins.checkpoint_model.engines.with_transformers import TransformersEngine

    return TransformersEngine(settings)
