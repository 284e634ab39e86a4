"""Writes the skeleton of a plugin package, with its own names in it."""

import keyword
import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from em_tasks.plugins.errors import UserError

LAYOUT = {
    "pyproject.toml.txt": "pyproject.toml",
    "README.md.txt": "README.md",
    "package/__init__.py.txt": "{package}/__init__.py",
    "package/questions.yaml.txt": "{package}/{package}_questions.yaml",
    "package/conditions.yaml.txt": "{package}/{package}_conditions.yaml",
    "package/rubric.yaml.txt": "{package}/{package}_rubric.yaml",
    "tests/test_plugin.py.txt": "tests/test_plugin.py",
}
"""Where each file of the skeleton goes. They end in .txt here, so that no tool takes them for code of ours."""


def write_plugin(name: str, folder: Path) -> list[Path]:
    """Writes a plugin package.

    Args:
        name: Of the distribution, such as `sleep-questions`; the package is called the same with underscores.
        folder: Receives it, as `folder/name`.

    Returns:
        The files written.

    Raises:
        UserError: The name cannot be a package's, or another package or something in the folder has it already.
    """
    package = re.sub(r"[-.]+", "_", name).lower()
    if (
        not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]", name)
        or not package.isidentifier()
        or keyword.iskeyword(package)
    ):
        raise UserError(f"{name!r} cannot be a package's name. Take letters, digits and hyphens, a letter first.")
    target = folder / name
    if target.exists():
        raise UserError(f"{target} exists already. Give another name, or move it away.")
    if (taken := find_spec(package)) is not None:
        raise UserError(
            f"A package {package} can be imported here already ({taken.origin or 'a folder'}); of two with one name "
            "one hides the other. Take another name."
        )
    written = []
    for source, place in LAYOUT.items():
        text = files(__package__).joinpath(source).read_text(encoding="utf-8")
        path = target / place.format(package=package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{{package}}", package).replace("{{distribution}}", name), encoding="utf-8")
        written.append(path)
    return written
