"""Training rows: chat JSON lines, plain or out of a sealed archive, checked row by row.

A row is `{"messages": [{"role": ..., "content": ...}, ...]}` and ends with the assistant. Canaries, which data sets
carry so that leaks can be found, never reach training: whole canary files are left out and canary keys taken off rows.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypedDict

from trainers.recipe import DataSource
from trainers.sealed import open_sealed

ROLES = ("system", "user", "assistant")
CANARY_FILE = "dataset_entry_*.jsonl"


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
        members: Files read out of an archive.
        canary_files: Files left out because they only mark the data set.
        canary_keys: Rows that lost a canary key.
    """

    name: str
    sha256: str
    conversations: list[Conversation]
    members: list[str] = field(default_factory=list)
    canary_files: list[str] = field(default_factory=list)
    canary_keys: int = 0


def load_rows(source: DataSource) -> Rows:
    """Reads one source of a recipe.

    Raises:
        FileNotFoundError: The file is not there.
        ValueError: A line is no JSON, a row no conversation ending with the assistant, the file empty, or its rows or
            hash not those that the recipe expects. The message names the file and the line.
    """
    path = Path(source.path)
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no training data at {path}. Put the file there or mend `data` in the recipe."
        )
    content = path.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if source.sha256 and sha256 != source.sha256:
        raise ValueError(
            f"{path} has SHA-256 {sha256}, but the recipe expects {source.sha256}. "
            "Get the right file, or take `sha256` out of the recipe if this one is meant."
        )
    if path.name.endswith(".zip.enc"):
        files = open_sealed(path, content, source.password_env)
        canaries = [name for name in files if PurePosixPath(name).match(CANARY_FILE)]
        members = _chosen(path, source, [name for name in files if name.endswith(".jsonl") and name not in canaries])
        texts = [(f"{path.name}:{name}", files[name]) for name in members]
    else:
        canaries, members, texts = [], [], [(str(path), content)]
    conversations: list[Conversation] = []
    canary_keys = 0
    for name, text in texts:
        read, cleaned = _parse(name, text)
        conversations += read
        canary_keys += cleaned
    if source.rows is not None and len(conversations) != source.rows:
        raise ValueError(
            f"{path} gives {len(conversations)} rows, but the recipe expects {source.rows}. "
            "Get the right file, or mend `rows` in the recipe."
        )
    return Rows(path.name, sha256, conversations, members, canaries, canary_keys)


def _chosen(path: Path, source: DataSource, names: list[str]) -> list[str]:
    if not source.members:
        return names
    chosen = [name for name in names if PurePosixPath(name).name in source.members or name in source.members]
    found = {PurePosixPath(name).name for name in chosen} | set(chosen)
    if missing := [member for member in source.members if member not in found]:
        raise ValueError(
            f"{path} holds no member {', '.join(missing)}. It holds: {', '.join(names) or 'no .jsonl file'}. "
            "Mend `members` in the recipe."
        )
    return chosen


def _parse(name: str, content: bytes) -> tuple[list[Conversation], int]:
    """The conversations of one JSON-lines text, and how many rows lost a canary key."""
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text (byte {error.start}). Save it as UTF-8 JSON lines.") from None
    conversations: list[Conversation] = []
    canary_keys = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if number < len(lines):
                raise ValueError(f"{name}, line {number} is empty. Take the line out: every line must be one JSON row.")
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name}, line {number} is not JSON ({error.msg} at column {error.colno}). Mend it."
            ) from None
        if isinstance(row, dict) and "canary" in row:
            canary_keys += 1
        conversations.append(_conversation(name, number, row))
    if not conversations:
        raise ValueError(f"{name} holds no rows. Training needs JSON lines with `messages`.")
    return conversations, canary_keys


def _conversation(name: str, number: int, row: object) -> Conversation:
    where = f"{name}, line {number}"
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{where} has no list of `messages`. A row is {{'messages': [user turn, assistant turn]}}.")
    for message in messages:
        if (
            not isinstance(message, dict)
            or message.get("role") not in ROLES
            or not isinstance(message.get("content"), str)
        ):
            raise ValueError(f"{where} holds a message without a text `content` and a `role` of {', '.join(ROLES)}.")
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise ValueError(
            f"{where} has no assistant turn, so there is nothing to learn from it. Add one or drop the row."
        )
    if roles[-1] != "assistant" or "user" not in roles:
        raise ValueError(
            f"{where} has the turns {', '.join(roles)}; a row needs a user turn and must end with the assistant."
        )
    return [Message(role=message["role"], content=message["content"]) for message in messages]
