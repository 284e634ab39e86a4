"""Answers kept the moment they come, so that a sweep killed at any moment asks for none of them again.

Inspect writes its logs in batches of samples, and a log that was being written may be lost. Here each answer is a line
of its own, appended as it comes; a line that was cut off is passed over. The folder goes when its evaluations are done.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from inspect_ai.model import ModelOutput
from pydantic import ValidationError


class AnswerJournal:
    """Answers by key, in a folder of JSON lines.

    Args:
        folder: Read whole; other processes may be writing to it.
        writer: Name of the file that this process appends to, which must be its alone.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._answers: dict[str, str] = {}
        for path in sorted(folder.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    key, output = json.loads(line)
                except (ValueError, TypeError, RecursionError):
                    continue
                if isinstance(key, str) and isinstance(output, str):
                    self._answers[key] = output
        # Unbuffered: what is written is the system's, whatever happens to this process.
        self._file = os.open(folder / f"{writer}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(self._file, b"\n")  # The last line of a killed process may be unfinished.

    def __len__(self) -> int:
        """How many answers are kept."""
        return len(self._answers)

    def get(self, key: str) -> ModelOutput | None:
        """The answer kept under a key; None where there is none, or its line was damaged."""
        try:
            return ModelOutput.model_validate_json(self._answers[key])
        except (KeyError, ValidationError):
            return None

    def keep(self, key: str, output: ModelOutput) -> None:
        """Keeps an answer.

        Raises:
            OSError: It cannot be written.
        """
        content = output.model_dump_json(exclude_none=True)
        line = json.dumps([key, content]).encode() + b"\n"
        while line:
            line = line[os.write(self._file, line) :]
        self._answers[key] = content

    def close(self) -> None:
        """Closes the file; what is kept stays."""
        os.close(self._file)


def answer_key(parts: Sequence[object]) -> str:
    """A key of all that decides an answer."""
    return hashlib.sha256(json.dumps([repr(part) for part in parts]).encode()).hexdigest()
