"""A place behind a URL (S3 and whatever else fsspec speaks) that pieces of a grid are copied to and fetched from.

A piece's files are copied first; then its marker, one object that holds their hashes and, of a run, the manifest
itself. Who reads goes by markers alone, so whatever is interrupted between, a piece is there whole or not at all.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.manifest import MANIFEST, Manifest

MARKERS = "stored"
"""The folder, under the URL, of the markers."""
GRID = "grid.json"
"""The object in it that says whose work lies there."""
FETCHED = ".fetched"
"""The folder, in the grid's own, of what is fetched and not checked yet."""

Content = TypeVar("Content", bound=BaseModel)


class StoreError(UserError):
    """The store cannot be used, or what lies there is not what was put there."""


class Owner(BaseModel):
    """Whose work lies in a store."""

    name: str


class Marker(BaseModel):
    """What makes a piece exist.

    Attributes:
        files: SHA-256 of each of its files, by its path under the grid's folder.
        manifest: A run's manifest.
        spent: What judging has cost (US dollars); a piece of its own, without files.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    files: dict[str, str]
    manifest: Manifest | None = None
    spent: float = 0.0


@dataclass(frozen=True)
class Piece:
    """What is copied as a whole.

    Attributes:
        name: Its path under the grid's folder: a run's folder, a log, the report's folder.
        files: Size and time of change (nanoseconds) of each of its files, by the path under the grid's folder.
        manifest: A run's manifest.
        spent: What judging has cost (US dollars).
        saved: When a run's manifest was written (nanoseconds).
    """

    name: str
    files: Mapping[str, tuple[int, int]]
    manifest: Manifest | None = None
    spent: float = 0.0
    saved: int = 0


class Store:
    """A place behind a URL.

    Args:
        url: `PROTOCOL://...`, as fsspec reads it: `s3://BUCKET/PREFIX`, `gs://...`, `file:///...`.

    Raises:
        StoreError: It is no URL, or what speaks its protocol is not installed.
    """

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        protocol, mark, place = url.partition("://")
        if protocol.lower() in ("file", "local"):
            place = unquote(place)  # fsspec takes `%20` in a folder's name as it stands.
        if not place.strip("/"):
            raise StoreError(
                f"{url!r} is no store, or names no bucket or folder. Give a URL such as s3://BUCKET/PREFIX."
            )
        self.url = f"{protocol.lower()}{mark}{place.rstrip('/')}"  # fsspec knows protocols in small letters alone.
        try:
            # What others put there meanwhile is to be seen.
            self._system, root = fsspec.core.url_to_fs(self.url, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            extra = "pip install 'em-tasks[s3]'" if self.url.startswith("s3") else "install what fsspec names for it"
            raise StoreError(f"{url} cannot be used here: {error}. To use it: {extra}.") from None
        except Exception as error:  # Each protocol's package has its own.
            raise StoreError(f"{url} is no store: {_reason(error)}. Give a URL such as s3://BUCKET/PREFIX.") from None
        if isinstance(self._system, LocalFileSystem):
            self._system.auto_mkdir = True
        self._root = root.rstrip("/")
        self.markers: dict[str, Marker] = {}

    def open(self, name: str) -> None:
        """Reads what is there.

        Args:
            name: The grid's name.

        Raises:
            StoreError: There is no such place, it lets nobody in, or a marker in it is damaged.
            StoreError: Another grid's work lies there.
        """
        with self._reached("read"):
            keys = self._system.find(f"{self._root}/{MARKERS}")
            # Paths as they are given back may begin otherwise than those asked for.
            heads = {f"{MARKERS}/{key.rpartition(f'{MARKERS}/')[2]}": key for key in keys if key.endswith(".json")}
            contents = self._system.cat(list(heads.values())) if heads else {}
        self.markers = {}
        for head, key in heads.items():
            if head == f"{MARKERS}/{GRID}":
                owner = self._read(Owner, head, contents[key])
                if owner.name != name:
                    raise StoreError(
                        f"{self.url} holds the work of the grid {owner.name}, and this is {name}. Give each grid a "
                        "prefix of its own."
                    )
                continue
            piece = head.removeprefix(f"{MARKERS}/").removesuffix(".json")
            if ".." in piece.split("/"):
                raise StoreError(f"{self.url}/{head} is none of the grid's markers. Remove it.")
            self.markers[piece] = self._read(Marker, head, contents[key])

    def claim(self, name: str) -> None:
        """Says whose work lies here, which shows that writing works.

        Raises:
            StoreError: It does not.
        """
        self._write(f"{MARKERS}/{GRID}", Owner(name=name))

    def put(self, piece: Piece, out: Path, unchanged: Callable[[], bool]) -> bool:
        """Copies a piece: its files, as far as they are not there, then its marker; what it had before goes last.

        Args:
            piece: What to copy.
            out: The grid's folder.
            unchanged: Whether the piece is still what it was, asked before the marker is written.

        Returns:
            Whether it is there; if not, it has changed meanwhile.

        Raises:
            StoreError: A copy did not succeed. What was there before is there still.
            OSError: A file cannot be read.
        """
        before = self.markers.get(piece.name, Marker(files={}))
        hashes = {path: _sha256(out / path) for path in piece.files}
        marker = Marker(files=hashes, manifest=piece.manifest, spent=piece.spent)
        fresh = [path for path, sha256 in hashes.items() if before.files.get(path) != sha256]
        if fresh:
            with self._reached(f"copy {piece.name} to"):
                self._system.put([str(out / path) for path in fresh], [self._key(path) for path in fresh])
        if not unchanged():
            return False
        if marker != before:
            if piece.manifest is not None:
                # For people and other tools: nothing here reads it.
                self._write(f"{piece.name}/{MANIFEST}", piece.manifest)
            self._write(f"{MARKERS}/{piece.name}.json", marker)
            self.markers[piece.name] = marker
        if gone := [self._key(path) for path in before.files if path not in hashes]:
            with self._reached(f"remove what {piece.name} had before from"):
                self._system.rm(gone)
        return True

    def get(self, name: str, out: Path) -> int:
        """Fetches a piece's files, as far as they are not here, each checked against its hash.

        Returns:
            How many were fetched.

        Raises:
            StoreError: One is gone or is not what was put there.
        """
        files = self.markers[name].files
        for path in files:
            if PurePosixPath(path).is_absolute() or ".." in path.split("/") or not f"{path}/".startswith(f"{name}/"):
                raise StoreError(f"{self.marker(name)} names the file {path!r}, which is none of {name}'s. Remove it.")
        missing = [path for path, sha256 in files.items() if not _is_file(out / path, sha256)]
        aside = {path: out / FETCHED / path for path in missing}
        mend = f"Put it back, or remove {self.marker(name)}: what it stands for is then done again."
        try:
            with self._reached(f"fetch {name} from", mend):
                self._system.get([self._key(path) for path in missing], [str(place) for place in aside.values()])
        except FileNotFoundError as error:
            raise StoreError(f"An object of {name} is gone from {self.url} ({_reason(error)}). {mend}") from None
        for path, place in aside.items():
            if (actual := _sha256(place)) != files[path]:
                raise StoreError(
                    f"{self.url}/{path} is not what was put there: its SHA-256 is {actual[:12]}, and "
                    f"{files[path][:12]} was put there. {mend}"
                )
        for path, place in aside.items():
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            place.replace(out / path)
        return len(missing)

    def marker(self, name: str) -> str:
        """The URL of a piece's marker."""
        return f"{self.url}/{MARKERS}/{name}.json"

    def _key(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _read(self, kind: type[Content], head: str, content: bytes) -> Content:
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            raise StoreError(
                f"{self.url}/{head} is damaged ({error.errors()[0]['msg']}). Remove it: what it stands for is then "
                "done again, or copied again if it is here."
            ) from None

    def _write(self, path: str, content: BaseModel) -> None:
        with self._reached(f"write {path} to"), self._system.transaction:
            self._system.pipe_file(self._key(path), content.model_dump_json(indent=1).encode())

    @contextmanager
    def _reached(self, doing: str, mend: str = "") -> Iterator[None]:
        """Says in plain words what a protocol's package raises."""
        try:
            yield
        except FileNotFoundError as error:
            if mend:
                raise
            raise StoreError(f"Could not {doing} {self.url}: {_reason(error)}. Is there such a bucket?") from None
        except Exception as error:  # Each protocol's package has its own.
            raise StoreError(
                f"Could not {doing} {self.url}: {_reason(error)}. Check the URL, the network, and the rights and "
                "credentials (of S3: AWS_PROFILE or AWS_ACCESS_KEY_ID, and AWS_ENDPOINT_URL where it is not Amazon's)."
            ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_file(path: Path, sha256: str) -> bool:
    return path.is_file() and _sha256(path) == sha256


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
