"""Where the data that ships with the project lies: in the package, by links in a checkout and as files in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def shipped(path: str) -> Path:
    """A file or folder that ships with the project, such as `datasets/questions` or `recipes`."""
    return _PACKAGE / path
