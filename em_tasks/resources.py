"""Where the data that ships with the project lies: beside the packages in a checkout, inside them in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(path: str) -> Path:
    """A file or folder that ships with the project, such as `datasets/questions` or `recipes`."""
    in_wheel = _PACKAGE / "_shipped" / path
    return in_wheel if in_wheel.exists() else _PACKAGE.parent / path
