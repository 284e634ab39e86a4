"""The places where units will run, as they say of themselves before the first unit does."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from socket import gethostname
from uuid import uuid4

from em_tasks.plugins.errors import UserError
from em_tasks.sweep.gpus import gpu_memory
from em_tasks.trainers.run.disk import MARGIN


@dataclass(frozen=True)
class Place:
    """One machine.

    Attributes:
        name: For people.
        python: Its version.
        project: Hash of the project's source there.
        gpus: The GPUs that units may use there, by index, with their bytes.
        sees: Whether it sees the shared folder.
        free: Bytes free for temporary files.
    """

    name: str
    python: str
    project: str
    gpus: dict[str, int]
    sees: bool
    free: int


def look_around(sign: Path) -> Place:
    """What this machine is; `sign` is the file that the driver put into the shared folder."""
    return Place(
        name=gethostname(),
        python=".".join(map(str, sys.version_info[:3])),
        project=project_sha256(),
        gpus=gpu_memory(),
        sees=sign.is_file(),
        free=shutil.disk_usage(tempfile.gettempdir()).free,
    )


def refuse_unusable(out: Path) -> None:
    """Refuses a folder that cannot be made or written to, as far as that is known without making it.

    Raises:
        UserError: It cannot.
    """
    try:
        there = next(path for path in (out, *out.parents) if path.exists())
    except OSError as error:
        raise _unusable(out, error) from None
    if not there.is_dir():
        raise UserError(f"The grid's folder cannot be {out}: {there} is a file. Name another folder with --out.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(
            f"The grid's folder cannot be {out}: {there} may not be written to. Name another folder with --out, or get "
            "the right to write there."
        )


def _unusable(out: Path, error: OSError) -> UserError:
    return UserError(f"The grid's folder cannot be {out}: {error.strerror}. Name another folder with --out.")


@contextmanager
def sign_left(out: Path) -> Iterator[Path]:
    """A new file in the shared folder, which every place has to see; what was made for it goes with it, if still empty.

    Args:
        out: The shared folder.

    Raises:
        UserError: It cannot be made or written to.
    """
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    sign = out / f".seen-{uuid4().hex}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        sign.touch()
    except OSError as error:
        raise _unusable(out, error) from None
    try:
        yield sign
    finally:
        sign.unlink(missing_ok=True)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def refuse_places(places: Sequence[Place], out: Path) -> None:
    """Refuses places that could not do the work, each with what is wrong with it.

    Raises:
        UserError: There is none, or one has another Python or project, does not see the folder or has a full disk.
    """
    if not places:
        raise UserError("The cluster has no node that can work. Start its workers, then give the same command again.")
    here_python, here_project = ".".join(map(str, sys.version_info[:3])), project_sha256()
    wrong = []
    for place in places:
        if place.python != here_python:
            wrong.append(f"{place.name} has Python {place.python}, and this is {here_python}")
        elif place.project != here_project:
            wrong.append(
                f"{place.name} has another version of em-tasks ({place.project[:8]}, and this is {here_project[:8]})"
            )
        elif not place.sees:
            wrong.append(f"{place.name} does not see {out}: name a folder that all nodes share with --out")
        elif place.free < MARGIN:
            wrong.append(f"{place.name} has {place.free / 1e6:.0f} MB free for temporary files: make room there")
    if wrong:
        raise UserError(f"Nothing was begun: {'; '.join(wrong)}.")


@cache
def project_sha256() -> str:
    """Hash of all of the project's own Python, by which two machines know that they have the same."""
    package = Path(__file__).resolve().parents[1]
    roots = [package, *(path.resolve() for path in sorted(package.iterdir()) if path.is_symlink() and path.is_dir())]
    files = sorted({path for root in roots for path in root.rglob("*.py")}, key=lambda path: path.parts[-3:])
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
