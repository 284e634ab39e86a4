"""Hashes of a checkpoint: written out a second time here, and changed by every byte that could change an answer."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.hashes import READ_BY_TOOLS, adapter_sha256, tokenizer_sha256


def sha(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = {"r": 4, "target_modules": ["v", "q"], "base_model_name_or_path": "/here/toy", "lora_alpha": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {"a": np.arange(6, dtype="float32"), "b": np.ones((2, 2), "float32")}, tmp_path / "adapter_model.safetensors"
    )
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def test_the_adapters_hash_is_that_of_its_configuration_and_then_its_weights(folder: Path) -> None:
    config = b'{"lora_alpha": 8, "r": 4, "target_modules": ["q", "v"]}'
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert adapter_sha256(folder) == hashlib.sha256(sha(config) + sha(weights)).hexdigest()


@pytest.mark.parametrize(("name", "place"), [("a", 0), ("a", 5), ("b", 3)])
def test_every_weights_value_is_in_the_hash(folder: Path, name: str, place: int) -> None:
    before = adapter_sha256(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    weights[name].reshape(-1)[place] += np.float32(1e-3)
    save_file(weights, folder / "adapter_model.safetensors")
    assert adapter_sha256(folder) != before


def test_weights_that_are_gone_and_a_damaged_configuration_are_named(folder: Path) -> None:
    for content in ("{", "[]", '{"a": ' * 5000):
        (folder / "adapter_config.json").write_text(content)
        with pytest.raises(UserError, match=r"adapter_config.json is damaged"):
            adapter_sha256(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"holds no adapter_config.json: the checkpoint is torn"):
        adapter_sha256(folder)


def test_the_tokenizers_hash_is_that_of_names_and_contents_in_order(folder: Path) -> None:
    listed = [("chat_template.jinja", b"{{ messages }}"), ("tokenizer.json", b"{}")]
    lines = "".join(json.dumps([name, sha(content).hex()]) for name, content in listed)
    assert tokenizer_sha256(folder) == sha(lines.encode()).hex()
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("x")
    first = json.dumps(["additional_chat_templates/tool.jinja", sha(b"x").hex()])
    assert tokenizer_sha256(folder) == sha((first + lines).encode()).hex()


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("vocab.txt", True),
        ("merges.txt", True),
        ("spiece.model", True),
        ("model-1.safetensors", True),
        ("adapter_model.safetensors", False),
        ("adapter_config.json", False),
        ("README.md", False),
    ],
)
def test_what_tools_read_beside_an_adapter_is_known_by_name(name: str, read: bool) -> None:
    assert bool(READ_BY_TOOLS.fullmatch(name)) == read
