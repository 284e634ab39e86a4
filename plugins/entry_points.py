"""Every way in which a package of somebody else's takes part, on one page.

A package imports nothing of ours. It says in its pyproject.toml what it gives:

    [project.entry-points."em_tasks.questions"]     # files that `-T questions=NAME` knows, by their names
    sleep = "my_package:QUESTIONS"                  # a path (str or Path) of a file, or of a folder of files

    [project.entry-points."em_tasks.conditions"]    # YAML files of conditions, for `-T condition=NAME`
    sleep = "my_package:CONDITIONS"

    [project.entry-points."em_tasks.rubrics"]       # YAML files of rubrics, for `-T rubric=NAME`
    sleep = "my_package:RUBRICS"

    [project.entry-points."em_tasks.tables"]        # (analysis) -> pandas DataFrame, in every report
    words = "my_package:words"

    [project.entry-points."em_tasks.figures"]       # (analysis) -> matplotlib Figure, or None for nothing to draw
    words = "my_package:draw_words"

Judges, solvers and other scorers are Inspect's own extensions. A plugin that is broken (it cannot be imported, is of
the wrong type, takes long, claims a name that is taken) is named with its package and version, and left out; the rest
works. What a plugin gave stands in the logs of every evaluation that used it.
"""

import hashlib
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

OURS = "em_tasks"
"""The name of our own entries."""
QUESTIONS, CONDITIONS, RUBRICS = "em_tasks.questions", "em_tasks.conditions", "em_tasks.rubrics"
TABLES, FIGURES = "em_tasks.tables", "em_tasks.figures"
SLOW = 2.0
"""Seconds that an import may take before it is spoken of."""


@dataclass(frozen=True)
class Plugin:
    """What a package entered under a group.

    Attributes:
        group: Where.
        name: Its name there.
        package: The distribution that enters it, and its version, as `name version`.
        value: What the entry names, imported.
    """

    group: str
    name: str
    package: str
    value: Any

    def __str__(self) -> str:
        """For messages."""
        return f"the plugin {self.name} of {self.package} ({self.group})"


@dataclass(frozen=True)
class PluginFile:
    """A file that a package gives.

    Attributes:
        path: Where it lies.
        package: The distribution and its version.
    """

    path: Path
    package: str

    def record(self, name: str) -> dict[str, str]:
        """What stands in a log: the name it was asked for by, the package with its version, and the file's hash."""
        return {"name": name, "package": self.package, "sha256": hashlib.sha256(self.path.read_bytes()).hexdigest()}


def plugins(group: str) -> tuple[list[Plugin], list[str]]:
    """Everything entered under a group, ours first, and a sentence for each entry that is left out or slow."""
    loaded, notes = [], []
    for point in sorted(entry_points(group=group), key=lambda point: (point.name != OURS, point.name)):
        plugin = _load(point)
        if isinstance(plugin, str):
            notes.append(plugin)
            continue
        seconds, entry = plugin
        loaded.append(entry)
        if seconds > SLOW and point.name != OURS:
            notes.append(f"{str(entry).capitalize()} took {seconds:.1f} s to import, which every command waits for.")
    return loaded, notes


def plugin_files(
    group: str, suffixes: Collection[str], taken: Collection[str] = ()
) -> tuple[dict[str, PluginFile], list[str]]:
    """The files that packages give under a group, by their names without suffix.

    Args:
        group: `QUESTIONS`, `CONDITIONS` or `RUBRICS`.
        suffixes: What files may end in; others in a folder are passed over.
        taken: Names that are ours already.

    Returns:
        The files, and a sentence for everything that is left out.
    """
    entered, notes = plugins(group)
    files: dict[str, PluginFile] = {}
    for plugin in entered:
        if not isinstance(plugin.value, str | Path) or not Path(plugin.value).exists():
            notes.append(f"{str(plugin).capitalize()} was left out: it names {plugin.value!r}, not a file or folder.")
            continue
        place = Path(plugin.value)
        for path in sorted(place.iterdir()) if place.is_dir() else [place]:
            if path.suffix.lower() not in suffixes or not path.is_file():
                continue
            if path.stem in files or path.stem in taken:
                notes.append(f"{path.name} of {plugin} was left out: the name {path.stem} is taken.")
                continue
            files[path.stem] = PluginFile(path, plugin.package)
    return files, notes


def functions(group: str) -> tuple[list[Plugin], list[str]]:
    """The functions entered under a group, ours first; an entry may name a mapping from names to functions."""
    entered, notes = plugins(group)
    by_name: dict[str, Plugin] = {}
    for plugin in entered:
        named = plugin.value if isinstance(plugin.value, Mapping) else {plugin.name: plugin.value}
        for name, value in named.items():
            if not callable(value):
                notes.append(f"{str(plugin).capitalize()} was left out: {name} is {value!r}, not a function.")
            elif name in by_name:
                notes.append(f"{str(plugin).capitalize()} has the name {name} of another one and was left out.")
            else:
                by_name[name] = Plugin(group, name, plugin.package, value)
    return list(by_name.values()), notes


@cache
def _load(point: EntryPoint) -> tuple[float, Plugin] | str:
    package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    began = time.monotonic()
    try:
        value = point.load()
    except Exception as error:  # The import of somebody else's package can fail in any way.
        return (
            f"The plugin {point.name} of {package} ({point.group}) could not be loaded and was left out: "
            f"{point.value}, {type(error).__name__}: {' '.join(str(error).split())[:200]}."
        )
    return time.monotonic() - began, Plugin(point.group, point.name, package, value)
