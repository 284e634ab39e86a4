"""The cache folder of bases: where a base got with `em base get` or converted from a GGUF file lies. No torch.

`EM_BASES` names the folder; else it is `bases` in the user's cache folder. A named base is a small JSON file there that
says of which kind it is and in which folder its weights are.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import file_digest
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Literal

from em_tasks.plugins.errors import UserError

Kind = Literal["hub", "gguf"]

SMOLLM2 = "smollm2-135m"
NAMED = (SMOLLM2,)
"""Bases that `em base get` knows."""
ABANDONED = 24 * 3600.0
"""Seconds after which a temporary folder that nothing was done to is nobody's any more, on whatever machine its command
ran: making a base takes minutes, and teaching a judge, which may take days, touches its folder at every step."""


@dataclass(frozen=True)
class KeptBase:
    """A base that was got by name.

    Attributes:
        kind: `hub` is the publisher's bf16 weights, `gguf` weights that were rounded to few bits and put back to bf16:
            other numbers, so another base.
        folder: Where its files lie, in the Hugging Face format.
        source: What it was made from.
        sha256: Of the GGUF file, or the hub's revision.
    """

    kind: Kind
    folder: str
    source: str
    sha256: str


def bases_folder() -> Path:
    """The folder of kept bases; it need not exist."""
    from platformdirs import user_cache_path

    setting = os.environ.get("EM_BASES")
    return Path(setting).expanduser().resolve() if setting else user_cache_path("em-tasks") / "bases"


def kept_base(name: str) -> KeptBase | None:
    """What `em base get` kept under a name, or None.

    Raises:
        UserError: The record there is no such record, or the folder it names is gone.
    """
    record = bases_folder() / f"{name}.json"
    if not record.is_file():
        return None
    try:
        kept = KeptBase(**json.loads(record.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{record} is no record of a base ({error}). Delete it and run em base get {name}.") from None
    if not (Path(kept.folder) / "config.json").is_file():
        raise UserError(f"The base {name} should lie in {kept.folder}, which is gone. Run em base get {name} again.")
    return kept


def keep(name: str, kept: KeptBase) -> None:
    """Records what a name stands for from now on."""
    with writable() as folder:
        fresh = folder / f".{name}.{os.getpid()}"
        fresh.write_text(json.dumps(asdict(kept), indent=1) + "\n", encoding="utf-8")
        fresh.replace(folder / f"{name}.json")


def folder_of_gguf(path: Path) -> Path:
    """Where the conversion of a GGUF file lies or will lie: by its content, so that an altered file is another base."""
    status = path.stat()
    return bases_folder() / f"gguf-{_sha256(path, status.st_size, status.st_mtime_ns)[:16]}"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read once a process as long as it does not change."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@contextmanager
def writable() -> Iterator[Path]:
    """The cache folder, made if need be; what cannot be written is said with the way out.

    Raises:
        UserError: The folder is read-only or its disk is full.
    """
    folder = bases_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        clear_away(folder, ".making-", ".getting-")
        yield folder
    except OSError as error:
        raise UserError(
            f"The folder of bases, {folder}, cannot be written: {error.strerror or error}. Make room or set EM_BASES "
            "to another folder. Nothing half-written was left."
        ) from error


def clear_away(folder: Path, *prefixes: str) -> None:
    """Deletes the temporary folders that begin so and were left when their command was killed: nobody sees them."""
    for left in (path for prefix in prefixes for path in folder.glob(f"{prefix}*")):
        with suppress(OSError):  # Another command was first.
            if left.is_dir() and time.time() - left.stat().st_mtime > ABANDONED:
                rmtree(left, ignore_errors=True)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` at the end, or is deleted if anything goes wrong."""
    with writable():
        temporary = Path(mkdtemp(prefix=".making-", dir=folder.parent))
        try:
            yield temporary
            temporary.chmod(0o755)
            if not folder.is_dir():
                temporary.rename(folder)
        finally:
            rmtree(temporary, ignore_errors=True)


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _modified: int) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
