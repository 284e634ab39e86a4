"""Files of rows, whatever their format: CSV, JSON, JSON lines (also gzipped) and Parquet as columns of values.

A file that cannot be read whole is not read at all: a row too short or an open quotation mark shifts everything after.
"""

import csv
import gzip
import io
import json
import math
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TextIO

from em_tasks.plugins.delimited import delimiter_of
from em_tasks.plugins.errors import UserError

DELIMITED = {".csv", ".tsv"}
JSON_LINES = {".jsonl", ".ndjson"}
FORMATS = {*DELIMITED, *JSON_LINES, ".json", ".parquet"}
"""The suffixes of files that may hold answers."""

GZIPPED = ".gz"
MOST_UNPACKED = 2**29
"""Characters that a gzipped file may have; a small one can unpack to more than any memory holds."""

PACKED = {".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz", ".rar"}
SPREADSHEETS = {".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"}

DEEPEST = 4
"""Mappings within a record that are taken apart; their keys are joined by dots."""


@dataclass(frozen=True)
class Table:
    """A file's rows.

    Attributes:
        columns: Values by the column's name; text where the file is CSV, else whatever JSON or Parquet hold.
        lines: The line of each row, or None where rows have none (Parquet, JSON).
        rows: How many.
    """

    columns: Mapping[str, list[Any]]
    lines: list[int] | None
    rows: int

    def where(self, row: int) -> str:
        """`line 12`, or `row 12` counted from 1."""
        return f"row {row + 1}" if self.lines is None else f"line {self.lines[row]}"

    def __getitem__(self, column: str) -> list[Any]:
        """The values of a column."""
        return self.columns[column]


def format_of(path: PurePath) -> str | None:
    """The format that a path's suffix names, before `.gz` too; None where it is none of `FORMATS`."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [GZIPPED] and suffixes[0] != ".parquet":
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMATS else None


def without_format(path: PurePath) -> PurePath:
    """A path without the suffixes that say its format; any other path as it is."""
    if format_of(path) is None:
        return path
    return (path.with_suffix("") if path.suffix.lower() == GZIPPED else path).with_suffix("")


def why_no_table(path: PurePath) -> str:
    """What a file of another format is, and what to do about it."""
    suffix = path.suffix.lower()
    if suffix in SPREADSHEETS:
        return "a spreadsheet, which is not read; save it as CSV (UTF-8)"
    if suffix == GZIPPED or suffix in PACKED:
        return "packed; only gzipped CSV and JSON are read as they are: unpack it"
    if suffix == ".eval":
        return "an Inspect log, which `em report` reads as it is"
    return "neither CSV (.csv, .tsv), JSON (.json, .jsonl, .ndjson) nor Parquet (.parquet)"


def read_table(file: Path) -> Table:
    """Reads a file by its suffix.

    Raises:
        UserError: It is not what its suffix says; the message says where, without the file's name.
    """
    suffix = format_of(file)
    if suffix is None:
        raise UserError(why_no_table(file))
    try:
        if suffix in DELIMITED:
            return _read_delimited(file)
        if suffix == ".parquet":
            return _read_parquet(file)
        if suffix in JSON_LINES:
            return _records(list(_json_lines(file)))
        return _json(file)
    except UnicodeDecodeError as error:
        raise UserError(f"no UTF-8 text at byte {error.start} ({error.reason}); convert it") from error
    except RecursionError as error:
        raise UserError("nested too deep") from error


def _open(file: Path) -> TextIO:
    """The text of a file, unpacked where it is gzipped."""
    if file.suffix.lower() != GZIPPED:
        return file.open(encoding="utf-8-sig")
    try:
        with gzip.open(file, "rt", encoding="utf-8-sig") as packed:
            text = packed.read(MOST_UNPACKED + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"no whole gzip file ({error}); copy it again") from error
    if len(text) > MOST_UNPACKED:
        raise UserError(f"unpacks to more than {MOST_UNPACKED:,} characters; gunzip it and import that")
    return io.StringIO(text)


def _read(file: Path) -> str:
    with _open(file) as opened:
        return opened.read()


def _read_delimited(file: Path) -> Table:
    csv.field_size_limit(sys.maxsize)  # an answer may be of any length
    text = _read(file)
    if "\x00" in text:
        raise UserError(f"line {text.count(chr(10), 0, text.index(chr(0))) + 1} holds a NUL character; take it out")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter_of(text), strict=True)
    rows, lines = [], []
    try:
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < len(header):
            twice = sorted({name for name in header if header.count(name) > 1})
            raise UserError(f"the column {twice[0]!r} stands twice in the first line")
        while True:
            line = reader.line_num + 1
            row = next(reader, None)
            if row is None:
                break
            if not row:
                continue
            if len(row) != len(header):
                raise UserError(f"line {line}: {len(row)} fields where there are {len(header)} columns; mend the row")
            rows.append(row)
            lines.append(line)
    except csv.Error as error:
        raise UserError(f"line {reader.line_num}: {error}; is a quotation mark left open?") from error
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in header]
    return Table(dict(zip(header, columns, strict=True)), lines, len(rows))


def _read_parquet(file: Path) -> Table:
    # Most imports are text, and need not wait for pyarrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _flat([dict(row) for row in pq.read_table(file).to_pylist()], None)
    except pa.ArrowException as error:
        raise UserError(f"no readable Parquet file ({str(error).splitlines()[0][:100]})") from error


def _json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    with _open(file) as opened:
        for line, text in enumerate(opened, 1):
            if text.strip():
                try:
                    yield line, _parsed(text)
                except json.JSONDecodeError as error:
                    raise UserError(f"line {line} is no JSON ({error.msg}); mend it") from error
                except ValueError as error:
                    raise UserError(f"line {line} {error}; mend it") from error


def _parsed(text: str) -> Any:
    """The JSON in a text.

    Raises:
        ValueError: A key stands twice, of which Python would take the last, or a number has thousands of digits.
    """
    try:
        return json.loads(text, object_pairs_hook=_keys_once)
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "limit" not in str(error):
            raise
        raise ValueError("holds a number of thousands of digits") from error


def _keys_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"has the key {ascii(twice)[:60]} twice")
    return record


def _records(numbered: list[tuple[int, Any]]) -> Table:
    for line, record in numbered:
        if not isinstance(record, dict):
            raise UserError(f"line {line} is no record but {ascii(record)[:40]}")
    return _flat([record for _, record in numbered], [line for line, _ in numbered])


def _json(file: Path) -> Table:
    text = _read(file)
    try:
        content = _parsed(text)
    except json.JSONDecodeError as error:
        try:  # many a .json file has a record a line
            return _records(list(_json_lines(file)))
        except UserError:
            raise UserError(f"line {error.lineno} is no JSON ({error.msg}); mend it") from error
    except ValueError as error:
        raise UserError(f"the file {error}; mend it") from error
    if isinstance(content, dict) and "eval" in content and "version" in content:
        raise UserError("an Inspect log, which `em report` reads as it is")
    records = _rows_in(content)
    if records is None:
        raise UserError("no list of records")
    return _flat(records, None)


def _rows_in(content: Any) -> list[dict[str, Any]] | None:
    """The records of a JSON file: a list of them, the one list of them in a mapping, or columns as pandas writes."""
    if isinstance(content, list):
        return content if content and all(isinstance(record, dict) for record in content) else None
    if not isinstance(content, dict) or not content:
        return None
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if len(lists) == 1:
        shared = {key: value for key, value in content.items() if isinstance(value, str | int | float)}
        return [{**shared, **record} for record in lists[0] if isinstance(record, dict)]
    columns = [list(value.values()) if isinstance(value, dict) else value for value in content.values()]
    if all(isinstance(column, list) for column in columns) and len({len(column) for column in columns}) == 1:
        return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]
    return None


def _flat(records: list[dict[str, Any]], lines: list[int] | None) -> Table:
    """Records as columns, mappings within them taken apart; a key that a record lacks is None."""
    flat = [dict(_pairs(record)) for record in records]
    names = dict.fromkeys(name for record in flat for name in record)
    return Table({name: [record.get(name) for record in flat] for name in names}, lines, len(records))


def _pairs(record: Mapping[Any, Any], before: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        name = f"{before}{key}"
        if (
            isinstance(value, dict)
            and value
            and depth < DEEPEST
            and all(isinstance(inner_key, str) for inner_key in value)
        ):
            yield from _pairs(value, f"{name}.", depth + 1)
        elif isinstance(value, float) and math.isnan(value):
            yield name, None
        else:
            yield name, value
