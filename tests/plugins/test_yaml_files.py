import os
import time
from pathlib import Path

import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.yaml_files import DEEPEST, LARGEST_FILE, read_yaml


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "file.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_values_anchors_and_merges_come_as_yaml_means_them(tmp_path: Path) -> None:
    text = "a: &a {x: 1, y: [1.5, null, yes]}\nb: *a\nc: {<<: *a, x: 2}\n"
    content = read_yaml(write(tmp_path, text))
    first = {"x": 1, "y": [1.5, None, True]}
    assert content == {"a": first, "b": first, "c": {**first, "x": 2}}
    assert read_yaml(write(tmp_path, "")) is None
    assert read_yaml(write(tmp_path, b"\xef\xbb\xbfa: \xc3\xa9")) == {"a": "é"}


LAUGHS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
LONG = f"a: &a {'x' * 2**20}\nb: [{', '.join(['*a'] * 300)}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1,\n", r"line 3, column 1 is not readable as YAML"),
        ("a: 1\nb: {a: 1,\n  a: 2}\n", r"line 3 gives 'a' again, which stands in line 2"),
        ("yes: 1\ntrue: 2\n", r"line 2 gives True again"),
        ("a: &a {x: 1}\nb: {<<: *a, z: 1, z: 2}\n", r"line 2 gives 'z' again"),
        (LAUGHS, r"line 17: with its aliases written out"),
        (LONG, r"line 2: with its aliases written out"),
        ("- " * (DEEPEST + 1) + "x", r"line 1 is nested more than 64 deep"),
        ("x: " + "[" * 1_000_000, r"line 1 is nested more than 64 deep"),
        ("a: &a\n  b: *a\n", r"line 2: \*a stands inside itself"),
        ("a: 1\nb: *c\n", r"line 2, column 4 is not readable as YAML.*undefined alias"),
        ("a: 1\nb: 2025-13-45\n", r"line 2, column 4 is not readable.*month"),
        ("a: 1\nb: !!timestamp soon\n", r"line 2, column 4 is not readable.*'soon' is no timestamp"),
        (f"a: {'9' * 5000}\n", r"line 1, column 4 is not readable.*digits"),
        ("a: 1\nb: !!python/object:os.system {}\n", r"line 2, column 4 is not readable.*constructor"),
        ('a: 1\nb: "\\ud800"\n', r"line 2, column \d+ is not readable"),
        ("a: 1\nb: \0\n", r"line 2 holds the character '\\x00'"),
        (b"a: 1\nb: \xff\n", r"line 2 is not UTF-8"),
        ("a: 1\n---\nb: 1\n", r"line 2, column 1 is not readable.*document"),
        ("? [a, b]\n: 1\n? {a: 1}\n: 2\n", r"is not readable.*unhashable"),
        (b"#" * (LARGEST_FILE + 1), r"has more than 16 MiB"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_whatever_is_wrong_is_said_with_file_and_line_and_soon(tmp_path: Path, text: str | bytes, message: str) -> None:
    began = time.perf_counter()
    with pytest.raises(UserError, match=r"file\.yaml.*" + message):
        read_yaml(write(tmp_path, text))
    assert time.perf_counter() - began < 2


def test_what_is_no_ordinary_file_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "pipe", "is a pipe"),
        (tmp_path, "is a folder"),
        (tmp_path / "gone", "No such file"),
        (tmp_path / "a\0b", r"a\\0b cannot be read: a path cannot hold a NUL"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(UserError, match=message):
            read_yaml(path)
