"""A kind of attack: how its cases are made, written into a folder and handed in; and what several kinds share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support.hostile import as_json, as_yaml, spoilt, spoilt_text

Write = Callable[[Any, Path, Path], Path]


@dataclass(frozen=True)
class Kind:
    """One kind of attack.

    Attributes:
        name: For the table.
        weight: Its share of the cases.
        cases: Makes a case.
        write: Puts it into an empty folder, given another with what `prepare` made; gives the path to hand in.
        attack: Hands it in; the last argument is the folder that may be written.
        prepare: Makes once what all cases need.
    """

    name: str
    weight: int
    cases: st.SearchStrategy[Any]
    write: Write
    attack: Callable[[Any, Path, Path], None]
    prepare: Callable[[Path], None] = lambda kept: None


def file(name: str) -> Write:
    """Writes a case's bytes into a file of that name."""

    def write(content: bytes, folder: Path, kept: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def nothing(content: Any, folder: Path, kept: Path) -> Path:
    return folder


def structured(valid: Any, *more: str) -> st.SearchStrategy[bytes]:
    """A valid mapping spoilt, as YAML or JSON, and the file spoilt again; or texts that are bombs."""
    written = st.tuples(spoilt(valid), st.sampled_from([as_yaml, as_json])).map(lambda pair: pair[1](pair[0]))
    return st.one_of(
        *[written.flatmap(spoilt_text)] * 12,
        st.sampled_from([*BOMBS, *more]).flatmap(spoilt_text),
        st.binary(max_size=30),
    )


BOMBS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
    "&a [*a]",
    "? {a: b}\n: c",
    "[" * 5000,
    "{" * 5000,
    "- " * 5000 + "x",
    "a: " + "9" * 6000,
    "a: 9999-99-99",
    "a: !!float x",
    "a: !!binary x",
    "<<: [1, 2]",
    "<<: *a",
    "%YAML 9.9\n---\na: 1",
    "--- 1\n--- 2",
    "a: !!timestamp 2001-13-45",
    "!!set {a, b}",
    "!!python/name:os.system",
    "a: .inf\na: .nan",
    "\ufeffa: 1",
    "=: =",
    "? - a\n  - b\n: c",
    "0o17: 0b1",
    "x: 190:20:30.15",
    "x: 1e400",
    "~: ~",
)
