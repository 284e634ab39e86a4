"""The folder that a command was given in, against which the relative paths in it are meant.

`inspect eval em_tasks/em.py` changes into the folder of that file before any task or model is made.
"""

import os
from pathlib import Path


def caller_folder() -> Path:
    """The working directory, or the one that the shell was in where Inspect has changed into the task's folder."""
    here = Path.cwd()
    shell = os.environ.get("PWD", "")
    moved = (here / "em.py").is_file() and here.name == "em_tasks" and (here / "registry.py").is_file()
    return Path(shell) if moved and Path(shell).is_absolute() and Path(shell).is_dir() else here


def from_caller(path: str | Path) -> Path:
    """The path, a relative one counted from the caller's folder, `~` being the home folder."""
    return caller_folder() / Path(path).expanduser()
