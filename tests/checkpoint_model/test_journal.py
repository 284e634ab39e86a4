"""Answers kept as they come: whatever a kill or a bad disk made of a line costs that line alone."""

import json
from pathlib import Path

import pytest
from inspect_ai.model import ModelOutput

from em_tasks.plugins.checkpoint_model.journal import AnswerJournal

ANSWER = ModelOutput.from_content("m", "It is cold.")
LINE = json.dumps(["kept", ANSWER.model_dump_json()]).encode()


@pytest.mark.parametrize(
    "damage",
    [
        LINE[:30],
        b"\xff\x00",
        b'["torn", "no output"]',
        b'["torn", 5]',
        b'[["torn"], "x"]',
        b'{"torn": "x"}',
        b"[" * 5000,
    ],
    ids=["cut", "bytes", "no output", "number", "key", "mapping", "deep"],
)
def test_a_damaged_line_costs_no_other_answer(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "killed.jsonl").write_bytes(LINE + b"\n" + damage)
    journal = AnswerJournal(tmp_path, "killed")
    assert journal.get("torn") is None
    journal.keep("more", ANSWER)
    journal.close()
    again = AnswerJournal(tmp_path, "next")
    assert [answer and answer.completion for answer in map(again.get, ("kept", "more"))] == ["It is cold."] * 2
    again.close()
