import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from em_tasks.commands.cli import cli
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.publishing import publish
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.checkpoints import find_checkpoint
from em_tasks.trainers.run.hashes import adapter_sha256, tokenizer_sha256


def test_published_checkpoint_says_nothing_of_this_machine_and_is_the_same_adapter(
    trained_runs: Path, tmp_path: Path
) -> None:
    checkpoint = find_checkpoint(trained_runs, "small@4")
    publish(checkpoint, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        for folder in (TOY_MODELS, trained_runs, Path.home()):
            assert os.fsencode(folder) not in content or folder == Path("/")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "toy-s"
    assert checkpoint.manifest.base_fingerprint in (tmp_path / "out" / "README.md").read_text()
    assert checkpoint.record is not None
    assert adapter_sha256(tmp_path / "out") == checkpoint.record.adapter_sha256
    assert tokenizer_sha256(tmp_path / "out") == tokenizer_sha256(trained_runs / "small" / "checkpoint-4")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TOY_MODELS / "toy-s"), tmp_path / "out")
    assert any(value.abs().max() > 0 for name, value in model.named_parameters() if "lora_B" in name)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template


def test_what_cannot_be_published_is_refused(trained_runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Only a checkpoint that was trained here"):
        publish(find_checkpoint(trained_runs, "small@base"), tmp_path / "out")
    with pytest.raises(UserError, match="is there already"):
        publish(find_checkpoint(trained_runs, "small@4"), tmp_path)


def test_command_publishes_beside_the_run_that_it_is_asked_for(trained_runs: Path, tmp_path: Path) -> None:
    arguments = ["export", "small@4", "--runs", str(trained_runs), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert "adapter_model.safetensors" in done.output
