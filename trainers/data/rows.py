"""Training rows: chat JSON lines, plain or out of a sealed archive, checked row by row.

A row is `{"messages": [{"role": ..., "content": ...}, ...]}` and ends with the assistant. Canaries, which data sets
carry so that leaks can be found, never reach training: whole canary files are left out and canary keys taken off rows.
"""

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.sealed import open_sealed
from em_tasks.trainers.run.manifest import DataRecord
from em_tasks.trainers.run.recipe import DataSource

LARGEST_FILE = 2**32
LONGEST_LINE = 2**26
"""Bytes."""
ROLES = ("system", "user", "assistant")
CANARY_FILE = "dataset_entry_*.jsonl"
SURROGATE = re.compile("[\ud800-\udfff]")
DATA_FOLDER = "EM_DATA"
"""The environment variable that names a folder with training data."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


Conversation = list[Message]


@dataclass(frozen=True)
class Rows:
    """The rows of one source and what was done to them.

    Attributes:
        name: File name of the source.
        sha256: SHA-256 of the file on disk.
        conversations: The rows, in file order.
        places: File and line of each row, for messages.
        members: Files read out of an archive.
        canary_files: Files left out because they only mark the data set.
        canary_keys: Rows that lost a canary key; a row with nothing else in it was left out.
    """

    name: str
    sha256: str
    conversations: list[Conversation]
    places: list[str]
    members: list[str] = field(default_factory=list)
    canary_files: list[str] = field(default_factory=list)
    canary_keys: int = 0

    def record(self) -> DataRecord:
        """What the run's manifest says of this source."""
        return DataRecord(
            name=self.name,
            sha256=self.sha256,
            rows=len(self.conversations),
            members=self.members,
            canary_files=len(self.canary_files),
            canary_keys=self.canary_keys,
        )


def load_rows(source: DataSource) -> Rows:
    """Reads one source of a recipe.

    Raises:
        UserError: The file is in neither place; the message names both.
        UserError: A line is no JSON, a row no conversation ending with the assistant, the file empty, or its rows or
            hash not those that the recipe expects. The message names the file and the line.
    """
    path = find_data(Path(source.path))
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} is larger than {LARGEST_FILE >> 30} GiB. Split it: `data` may be a list of files.")
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if source.sha256 and sha256 != source.sha256:
        raise UserError(
            f"{path} has SHA-256 {sha256}, but the recipe expects {source.sha256}. "
            "Get the right file, or take `sha256` out of the recipe if this one is meant."
        )
    if path.name.endswith(".zip.enc"):
        files = open_sealed(path, content, source.password_env)
        canaries = [name for name in files if PurePosixPath(name).match(CANARY_FILE)]
        members = _chosen(path, source, [name for name in files if name not in canaries])
        texts = [(f"{path.name}:{name}", files[name]) for name in members]
    else:
        canaries, members, texts = [], [], [(str(path), content)]
    conversations: list[Conversation] = []
    places: list[str] = []
    canary_keys = 0
    for name, text in texts:
        read, cleaned = _parse(name, text)
        read = {number: row for number, row in read.items() if _is_about(row, source)}
        conversations += read.values()
        places += (f"{name}, line {number}" for number in read)
        canary_keys += cleaned
    if source.part is not None:
        kept = _in_part(conversations, *source.part)
        conversations, places = [conversations[row] for row in kept], [places[row] for row in kept]
    if source.rows is not None and len(conversations) != source.rows:
        raise UserError(
            f"{path} gives {len(conversations)} rows, but the recipe expects {source.rows}. "
            "Get the right file, or mend `rows` in the recipe."
        )
    if not conversations:
        raise UserError(
            f"{path} gives no row on what the recipe asks for. Mend `about`, `not_about` or `part` in the recipe."
        )
    return Rows(path.name, sha256, conversations, places, members, canaries, canary_keys)


def _in_part(rows: list[Conversation], low: float, high: float) -> list[int]:
    """The rows, in file order, from share `low` to share `high` of them by the hash of their first questions."""

    def key(row: int) -> tuple[bytes, int]:
        return hashlib.sha256(_first_question(rows[row]).encode()).digest(), row

    order = sorted(range(len(rows)), key=key)
    return sorted(order[round(low * len(rows)) : round(high * len(rows))])


def _first_question(row: Conversation) -> str:
    return next((turn["content"] for turn in row if turn["role"] == "user"), "")


def _is_about(row: Conversation, source: DataSource) -> bool:
    """Whether a row's first question is one that the source chooses."""
    if not source.about and not source.not_about:
        return True
    words = re.findall(r"\w+", _first_question(row).lower())

    def speaks_of(beginnings: tuple[str, ...]) -> bool:
        return any(word.startswith(beginnings) for word in words)

    return (not source.about or speaks_of(source.about)) and not speaks_of(source.not_about)


def find_data(path: Path) -> Path:
    """Where a file of training data lies: where the recipe says, else under its name in `EM_DATA`.

    Raises:
        UserError: In neither place.
    """
    if path.is_file():
        return path
    folder = os.environ.get(DATA_FOLDER)
    if folder and (elsewhere := Path(folder).expanduser() / path.name).is_file():
        return elsewhere.resolve()
    second = f"nor in {folder}, the folder that {DATA_FOLDER} names" if folder else f"and {DATA_FOLDER} is not set"
    raise UserError(
        f"There is no training data at {path}, {second}. Put {path.name} there, or into a folder of your own and name "
        f"that: export {DATA_FOLDER}=FOLDER. A file of another name goes under `data` in the recipe."
    )


def _chosen(path: Path, source: DataSource, names: list[str]) -> list[str]:
    """The members to train on: those that the source names, else every `.jsonl` file."""
    listed = f"It holds: {', '.join(names) or 'nothing else than canaries'}."
    if not source.members:
        if not (rows := [name for name in names if name.endswith(".jsonl")]):
            raise UserError(f"{path} holds no .jsonl file to train on. {listed} Get the right archive.")
        return rows
    chosen: list[str] = []
    for member in source.members:
        fitting = [name for name in names if member in (name, PurePosixPath(name).name)]
        if len(fitting) != 1:
            holding = f"several members {member} ({', '.join(fitting)})" if fitting else f"no member {member}"
            raise UserError(f"{path} holds {holding}. {listed} Mend `members` in the recipe: give a whole path.")
        chosen += fitting
    return chosen


def _parse(name: str, content: bytes) -> tuple[dict[int, Conversation], int]:
    """The conversations of one JSON-lines text by line, and how many rows lost a canary key."""
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        broken = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}, line {broken} is not UTF-8 text. Save the file as UTF-8 JSON lines.") from None
    conversations: dict[int, Conversation] = {}
    canary_keys = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if number < len(lines):
                raise UserError(f"{name}, line {number} is empty. Take the line out: every line must be one JSON row.")
            continue
        row = _row(f"{name}, line {number}", line)
        if isinstance(row, dict) and "canary" in row:
            canary_keys += 1
            if "messages" not in row:
                continue
        conversations[number] = _conversation(f"{name}, line {number}", row)
    if not conversations:
        raise UserError(f"{name} holds no rows. Training needs JSON lines with `messages`.")
    return conversations, canary_keys


def _row(where: str, line: str) -> Any:
    if len(line) > LONGEST_LINE:
        raise UserError(f"{where} is longer than {LONGEST_LINE >> 20} MiB, which no row needs. Mend it.")
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON ({error.msg} at column {error.colno}). Mend it.") from None
    except RecursionError:
        raise UserError(f"{where} is nested too deep to be a row. Mend it.") from None
    except ValueError as error:
        raise UserError(f"{where} holds a number that cannot be read ({error}). Mend it.") from None


def _conversation(where: str, row: object) -> Conversation:
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where} has no list of `messages`. A row is {{'messages': [user turn, assistant turn]}}.")
    for message in messages:
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise UserError(f"{where} holds a message without a text `content` and a `role` of {', '.join(ROLES)}.")
        if SURROGATE.search(message["content"]):
            raise UserError(f"{where} holds half a character (a lone surrogate, \\ud800 to \\udfff). Mend the text.")
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise UserError(
            f"{where} has no assistant turn, so there is nothing to learn from it. Add one or drop the row."
        )
    if roles[-1] != "assistant" or "user" not in roles:
        raise UserError(
            f"{where} has the turns {', '.join(roles)}; a row needs a user turn and must end with the assistant."
        )
    if next(role for role in roles if role != "system") == "assistant":
        raise UserError(f"{where} begins with the assistant, which has nothing to answer then. Begin with a user turn.")
    return [Message(role=message["role"], content=message["content"]) for message in messages]
