"""What pydantic finds wrong with a field that somebody wrote, in words for them."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel


def in_words(fault: Mapping[str, Any], model: type[BaseModel]) -> str:
    """What is wrong at a fault's place, without the place.

    Args:
        fault: One of `ValidationError.errors()`.
        model: What the file was read as: its fields are what a name nobody knows may have been meant for.
    """
    if fault["type"] != "extra_forbidden":
        return str(fault["msg"]).removeprefix("Value error, ")
    *way, _ = fault["loc"]
    known = _fields(model, way)
    listed = f"; here may stand {', '.join(known)}" if way and known else ""
    return f"is not known{meant(fault, model) or listed}"


def meant(fault: Mapping[str, Any], model: type[BaseModel]) -> str:
    """What an unknown field was meant for, to go behind what is said of it; empty where no known name is near."""
    *way, name = fault["loc"]
    near = get_close_matches(str(name), _fields(model, way), 1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def _fields(model: type[BaseModel], way: Sequence[str | int]) -> list[str]:
    """The fields of the model that lies down a way of field names and places in lists; none where it leads to none."""
    for part in way:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_in(part))), None)
