"""What lies on disk between commands, or comes over the wire: adapters, calibrations, journals of answers, requests."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from inspect_ai.model import ModelOutput, get_model
from pydantic import ValidationError
from safetensors.numpy import save

from em_tasks.plugins.checkpoint_model.adopting import find_adapters
from em_tasks.plugins.checkpoint_model.engines.adapter_files import read_adapter
from em_tasks.plugins.checkpoint_model.journal import AnswerJournal
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.server.messages import ChatRequest
from em_tasks.scorers.calibration.calibrate import calibrate
from em_tasks.scorers.calibration.stored import known_calibration, store_calibration
from tests.support.attacks.kind import Kind
from tests.support.hostile import as_json, spoilt, spoilt_text

ADAPTER = {
    "peft_type": "LORA",
    "base_model_name_or_path": "toy-s",
    "r": 2,
    "lora_alpha": 4,
    "alpha_pattern": {"q_proj": 8},
    "target_modules": ["q_proj"],
    "exclude_modules": None,
    "layers_to_transform": [0],
    "bias": "none",
    "use_rslora": False,
}
STATE = {"global_step": 10, "epoch": 1.0}
MODULE = "model.layers.0.self_attn.q_proj"
LINEARS = {MODULE: (8, 4), "model.layers.0.self_attn.v_proj": (8, 4)}
HALVES = ("A", "B", "C")
shapes = st.lists(st.integers(0, 8), max_size=3).map(tuple) | st.sampled_from([(2, 4), (8, 2)])


def _weights(given: dict[str, tuple[int, ...]]) -> bytes:
    keys = {half: f"base_model.model.{MODULE}.lora_{half}.weight" for half in HALVES}
    return save({keys[half]: np.zeros(shape, dtype=np.float32) for half, shape in given.items()})


adapters = st.tuples(
    spoilt(ADAPTER).map(as_json).flatmap(spoilt_text),
    spoilt(STATE).map(as_json).flatmap(spoilt_text),
    st.just({"A": (2, 4), "B": (8, 2)}).map(_weights).flatmap(lambda content: st.just(content) | st.binary(max_size=40))
    | st.dictionaries(st.sampled_from(HALVES), shapes).map(_weights),
)


def write_adapter(content: tuple[bytes, bytes, bytes], folder: Path, kept: Path) -> Path:
    place = folder / "checkpoint-7"
    place.mkdir()
    for name, written in zip(
        ("adapter_config.json", "trainer_state.json", "adapter_model.safetensors"), content, strict=True
    ):
        (place / name).write_bytes(written)
    return place


def attack_adapter(content: Any, path: Path, out: Path) -> None:
    (adapter,) = find_adapters([str(path)])
    assert adapter.step is None or 0 < adapter.step < 2**53
    files = read_adapter(adapter.folder)
    files.check(LINEARS, "toy-s")
    if files.why_not_stacked() is None:
        assert set(files.ranks) == {MODULE}
        assert all(files.scaling(module, rank) >= 0 for module, rank in files.ranks.items())


CALIBRATION: dict[str, Any] = {}


def prepare_calibration(kept: Path) -> None:
    measured = asyncio.run(calibrate(get_model("emtoy/judge"), repeats=1))
    written = json.loads(store_calibration(measured, kept).read_text())
    CALIBRATION.update(written, judged=written["judged"][:4])


calibrations = st.deferred(lambda: spoilt(CALIBRATION).map(as_json).flatmap(spoilt_text))


def write_calibration(content: bytes, folder: Path, kept: Path) -> Path:
    (folder / "judge.json").write_bytes(content)
    return folder


def attack_calibration(content: Any, path: Path, out: Path) -> None:
    look_up = known_calibration(path)
    for rubric_sha256 in CALIBRATION["rubrics"].values():
        known = look_up(CALIBRATION["served"][0], rubric_sha256)
        if known is not None:
            known.errors(30.0)


LINE = ["k" * 64, ModelOutput.from_content("m", "It is cold.").model_dump_json(exclude_none=True)]
journals = st.lists(spoilt(LINE) | st.just(LINE), max_size=4).flatmap(
    lambda lines: spoilt_text("\n".join(map(as_json, lines)))
)


def write_journal(content: bytes, folder: Path, kept: Path) -> Path:
    (folder / "killed.jsonl").write_bytes(content)
    return folder


def attack_journal(content: bytes, path: Path, out: Path) -> None:
    out.mkdir()
    (out / "killed.jsonl").write_bytes(content)
    journal = AnswerJournal(out, "ours")
    kept = journal.get(LINE[0])
    assert kept is None or isinstance(kept, ModelOutput)
    journal.keep("n" * 64, ModelOutput.from_content("m", "It is hot."))
    journal.close()
    assert AnswerJournal(out, "next").get("n" * 64) is not None


REQUEST = {
    "model": "em/org@1",
    "messages": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [{"type": "text", "text": "x"}]},
    ],
    "n": 2,
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "seed": 7,
    "stop": ["x"],
    "logprobs": True,
    "top_logprobs": 2,
    "user": "me",
}


def attack_request(content: bytes, path: Path, out: Path) -> None:
    try:
        plain = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # The server's framework answers 400 before anything of ours sees it.
        return
    try:
        request = ChatRequest.model_validate(plain)
    except ValidationError as error:
        raise UserError(" ".join(str(error.errors()[0]["msg"]).split())) from None
    config = request.to_config()
    assert config.seed is None or 0 <= config.seed < 2**63
    for message in request.messages:
        message.to_chat_message().text.encode()


def write_request(content: bytes, folder: Path, kept: Path) -> Path:
    (folder / "request.json").write_bytes(content)
    return folder / "request.json"


KINDS = (
    Kind("adapters", 8, adapters, write_adapter, attack_adapter),
    Kind("calibrations", 4, calibrations, write_calibration, attack_calibration, prepare_calibration),
    Kind("journals", 4, journals, write_journal, attack_journal),
    Kind("requests", 8, spoilt(REQUEST).map(as_json).flatmap(spoilt_text), write_request, attack_request),
)
