"""Parameters that a base's files lack: transformers fills them with random numbers, so such a base is refused."""

from collections.abc import Collection, Sequence

from em_tasks.plugins.errors import UserError


def refuse_gaps(base: str, missing: Collection[str]) -> None:
    """Refuses a base without some of its parameters.

    Args:
        base: The base, as its user named it.
        missing: Names of parameters that loading found nowhere; an output layer that shares the embeddings is none.

    Raises:
        UserError: There are such parameters.
    """
    if missing:
        raise UserError(
            f"{base} lacks {len(missing)} of its model's parameters ({named(sorted(missing))}), which would be random "
            "numbers. Download, copy or save the model again."
        )


def named(parameters: Sequence[str]) -> str:
    """The first three names of a list, and how many more there are."""
    more = f" and {len(parameters) - 3} more" if len(parameters) > 3 else ""
    return ", ".join(parameters[:3]) + more
