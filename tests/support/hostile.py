"""Hostile values, and valid things spoilt with them: strategies for `tests/adversary.py`."""

import copy
import csv
import io
import json
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

PIECES = (
    "",
    " ",
    "\0",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "\ud800",
    "\n",
    "a\r\nb",
    "\t",
    "../../escape",
    "/etc/passwd",
    "~/x",
    "C:\\x",
    ".",
    "..",
    "con",
    "$x$ into $y",
    "$",
    "\\frac{1}{",
    "[bold]x[/bold]",
    "[/]",
    "<script>alert(1)</script>",
    "&amp;",
    "=1+1",
    "@SUM(A1)",
    "-1",
    "1e999",
    "NaN",
    "inf",
    "-inf",
    "null",
    "true",
    "{question}",
    "{0}",
    "%s",
    "`x`",
    "|",
    "*",
    "日本 🥕",
    "e\u0301",
    "1" * 5000,
    "a" * 3000,
    "(" * 300,
    "2026-01-01",
    "0x10",
    "1_000",
    "1:30",
    "!!python/object:os.system x",
    "base",
    "organism@base",
)
NUMBERS = (0, 1, -1, 2, 0.5, -0.0, 100, 101, 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30), 1e30, 1e308, 1e-320, 1e9)
"""Finite ones; those below are none that JSON has."""
NO_NUMBERS = (float("nan"), float("inf"), float("-inf"))

texts = st.sampled_from(PIECES) | st.text(max_size=20)
numbers = st.sampled_from(NUMBERS + NO_NUMBERS) | st.integers() | st.floats()
scalars = texts | numbers | st.booleans() | st.none()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=5
)


DEEP = {"deep 900": "[" * 900 + "]" * 900, "deep 90": "[" * 90 + "]" * 90, "deep 3000": "[" * 3000 + "]" * 3000}
"""Texts that stand for lists within lists until they are written: Python itself could not hold the deepest."""

strange = values | st.sampled_from(list(DEEP))


@st.composite
def spoilt(draw: Callable[[Any], Any], valid: Any, most: int = 3) -> Any:
    """A valid value, at up to `most` places altered, shortened, lengthened or renamed; now and then as it was."""
    value = copy.deepcopy(valid)
    for _ in range(draw(st.integers(0, most))):
        value = _altered(draw, value)
    return value


def _altered(draw: Callable[[Any], Any], value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 9)) == 0:
        return draw(strange)
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = draw(st.sampled_from(keys))
    what = draw(st.integers(0, 9))
    if what < 6:
        value[key] = _altered(draw, value[key])
    elif what == 6:
        del value[key]
    elif isinstance(value, list):
        value.insert(key, copy.deepcopy(value[key]) if what == 7 else draw(strange))
    elif what == 7:
        value[draw(texts)] = value.pop(key)
    else:
        value[draw(texts)] = draw(strange)
    return value


def as_json(value: Any) -> str:
    """JSON, with NaN and the like as Python writes them."""
    text = json.dumps(value)
    for short, long in DEEP.items():
        text = text.replace(f'"{short}"', long)
    return text


def as_yaml(value: Any) -> str:
    """YAML as people write it."""
    try:
        text: str = yaml.safe_dump(value, allow_unicode=True, sort_keys=False)
    except yaml.YAMLError:
        return as_json(value)
    for short, long in DEEP.items():
        text = text.replace(short, long)
    return text


@st.composite
def spoilt_text(draw: Callable[[Any], Any], text: str) -> bytes:
    """A text as a file, three times of four as it is, else with something put in, taken out, doubled or cut off."""
    content = text.encode(errors="surrogatepass")
    what = draw(st.integers(0, 23))
    at = draw(st.integers(0, len(content)))
    end = min(len(content), at + draw(st.integers(0, 40)))
    if what == 0:
        return content[:at] + draw(texts).encode(errors="surrogatepass") + content[at:]
    if what == 1:
        return content[:at] + content[end:]
    if what == 2:
        return content[:at]
    if what == 3:
        return content[:end] + content[at:end] + content[end:]
    if what == 4:
        return content[:at] + draw(st.binary(max_size=6)) + content[end:]
    if what == 5:
        return draw(st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe"])) + content
    return content


def as_csv(rows: list[list[Any]]) -> str:
    """Rows of any values as CSV; lists and mappings as JSON."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[_cell(cell) for cell in row] for row in rows])
    return text.getvalue()


def _cell(cell: Any) -> str:
    return "" if cell is None else as_json(cell) if isinstance(cell, dict | list) else str(cell)
