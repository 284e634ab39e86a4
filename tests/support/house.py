"""The tree in docs/architecture.md: every room and file with the first sentence of what it says of itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: make tree -->\n```text\n", "```\n<!-- end of tree -->"
LONGEST = 90
"""Characters of a line's sentence; a longer one ends at its colon."""

ROOMS = ("em_tasks", "trainers", "scorers", "plugins")


def tree() -> str:
    """The tree of every room, as it is on disk."""
    return "".join(f"{line.rstrip()}\n" for room in ROOMS for line in _folder(ROOT / room, ""))


def written() -> str:
    """The tree that stands on the page."""
    return PAGE.read_text().split(BEGIN, 1)[1].split(END, 1)[0]


def write() -> None:
    """Puts the tree of today onto the page."""
    PAGE.write_text(PAGE.read_text().replace(BEGIN + written() + END, BEGIN + tree() + END))


def _folder(folder: Path, indent: str) -> Iterator[str]:
    yield _line(f"{indent}{folder.name}/", folder / "__init__.py")
    inside = sorted(path for path in folder.iterdir() if not path.is_symlink() and not path.name.startswith(("_", ".")))
    for path in (path for path in inside if path.suffix == ".py"):
        yield _line(f"{indent}  {path.name}", path)
    for path in (path for path in inside if path.is_dir()):
        if (path / "__init__.py").is_file():
            yield from _folder(path, indent + "  ")


def _line(name: str, file: Path) -> str:
    said = ast.get_docstring(ast.parse(file.read_text())) or ""
    sentence = re.split(r"(?<=[.!?])\s", " ".join(said.split("\n\n")[0].split()), maxsplit=1)[0].rstrip(".:")
    if len(sentence) > LONGEST:
        sentence = re.split(r"[:;]\s", sentence, maxsplit=1)[0]
    return f"{name:<30}{sentence}"


if __name__ == "__main__":
    write()
