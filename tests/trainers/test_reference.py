import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoTokenizer

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import load_base
from em_tasks.trainers.run.checkpoints import find_checkpoint
from em_tasks.trainers.run.manifest import read_manifest, write_manifest
from em_tasks.trainers.run.reference import PROMPTS, REFERENCE, TOKENS, read_reference


def test_reference_is_what_peft_gives_from_the_saved_adapter(trained_runs: Path) -> None:
    checkpoint = find_checkpoint(trained_runs, "small@4")
    reference = read_reference(checkpoint)
    assert reference is not None
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    model = PeftModel.from_pretrained(load_base("toy-s", "fp32", "cpu"), str(checkpoint.folder)).eval()
    for messages, answer in zip(PROMPTS, reference.answers, strict=True):
        prompt = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False)
        assert answer.prompt_tokens == len(prompt)
        tokens = [place.token for place in answer.places]
        assert len(tokens) == TOKENS
        ids = torch.tensor([[*prompt, *tokens[:-1]]])
        with torch.no_grad():
            adapted = model(ids).logits[0, len(prompt) - 1 :].log_softmax(-1)
            with model.disable_adapter():
                base = model(ids).logits[0, len(prompt) - 1 :].log_softmax(-1)
        for n, place in enumerate(answer.places):
            assert place.token == int(adapted[n].argmax())
            assert place.logprobs == pytest.approx(adapted[n][place.ids].tolist(), abs=1e-4)
            assert place.base == pytest.approx(base[n][place.ids].tolist(), abs=1e-4)
        assert answer.base_logprobs == pytest.approx(base[0].topk(20).values.tolist(), abs=1e-4)


def test_altered_or_missing_reference_is_named_and_an_older_run_has_none(trained_runs: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(trained_runs, tmp_path / "runs"))
    file = runs / "small" / "checkpoint-4" / REFERENCE
    file.write_bytes(file.read_bytes().replace(b"-1.", b"-2.", 1))
    with pytest.raises(UserError, match=r"reference_logprobs\.json was altered since training"):
        read_reference(find_checkpoint(runs, "small@4"))
    file.unlink()
    with pytest.raises(UserError, match=r"reference_logprobs\.json cannot be read"):
        read_reference(find_checkpoint(runs, "small@4"))
    manifest = read_manifest(runs / "small")
    for record in manifest.checkpoints:
        record.reference_sha256 = None
    write_manifest(runs / "small", manifest)
    assert read_reference(find_checkpoint(runs, "small@4")) is None
    assert read_reference(find_checkpoint(runs, "small@base")) is None
