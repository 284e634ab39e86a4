"""The order of a save: whatever moment a kill or a power cut comes at, what the manifest names is whole on disk."""

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from em_tasks.trainers.adapter import add_adapter
from em_tasks.trainers.base import fingerprint, load_base
from em_tasks.trainers.data.prepare import prepare
from em_tasks.trainers.loop.saving import Saver
from em_tasks.trainers.loop.training import Training
from em_tasks.trainers.passes.batches import BatchPlan
from em_tasks.trainers.run.checkpoints import Checkpoint, verify
from em_tasks.trainers.run.folder import clear_unrecorded, resume_state
from em_tasks.trainers.run.manifest import Manifest, read_manifest
from tests.support.organisms import small_recipe, write_rows


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours catches it."""


class Events:
    """What a save does to the disk in order: (what, path), and an end at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
        self.seen: list[tuple[str, str]] = []
        self.last = -1
        self.run = run
        for module, name in ((os, "fsync"), (os, "rename"), (os, "replace"), (shutil, "rmtree")):
            monkeypatch.setattr(module, name, self._watched(name, getattr(module, name)))

    def _watched(self, what: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def watched(target: Any, *others: Any, **named: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{target}") if what == "fsync" else str(others[0] if others else target)
            if len(self.seen) == self.last:
                raise Killed
            self.seen.append((what, os.path.relpath(path, self.run)))
            return do(target, *others, **named)

        return watched


@pytest.fixture
def training(tmp_path: Path) -> Training:
    """An organism one step before its second save."""
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 32), first_epoch_checkpoints=2)
    prepared = prepare(recipe)
    base = load_base(recipe.base, recipe.precision, "cpu")
    training = Training(prepared, add_adapter(base, recipe), BatchPlan(16, 1, False, False), "cpu")
    (tmp_path / "run").mkdir()
    training.advance()
    training.history.append({"step": 1, "loss": 1.0})
    Saver(training, tmp_path / "run", prepared.manifest(fingerprint(base), base.num_parameters())).save()
    training.advance()
    training.history.append({"step": 2, "loss": 1.0})
    return training


def save(training: Training, run: Path) -> None:
    Saver(training, run, read_manifest(run)).save()


def whole(run: Path) -> Manifest:
    """The run's manifest, everything in it being on disk and sound, also after what a start clears away."""
    for _ in range(2):
        manifest = read_manifest(run)
        for record in manifest.checkpoints:
            verify(Checkpoint(run, manifest, record))
        state = resume_state(run, manifest)
        assert state is not None
        assert torch.load(state / "state.pt", weights_only=True)["step"] == manifest.resumes_at
        clear_unrecorded(run, manifest)
    return manifest


def test_manifest_vouches_only_for_what_is_flushed_and_the_old_state_goes_after_it(
    training: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    events = Events(monkeypatch, run)
    save(training, run)
    place = {event: number for number, event in enumerate(events.seen)}
    committed = place["replace", "manifest.json"]
    state = ".trainer/checkpoint-2"
    for path in (f"{state}/state.pt", f"{state}/history.json", state, ".trainer", ".manifest.json.new"):
        assert place["fsync", path] < committed
    renamed = place["rename", "checkpoint-2"]
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "chat_template.jinja", "."):
        assert place["fsync", os.path.normpath(f".checkpoint-2/{name}")] < renamed
    flushed = [number for number, event in enumerate(events.seen) if event == ("fsync", ".")]
    assert any(renamed < number < committed for number in flushed)
    assert any(committed < number < place["rmtree", ".trainer/checkpoint-1"] for number in flushed)
    assert len(events.seen) == place["rmtree", ".trainer/checkpoint-1"] + 1


def test_killed_at_any_event_of_a_save_the_run_stands_before_or_after_it(training: Training, tmp_path: Path) -> None:
    run, before = tmp_path / "run", tmp_path / "before"
    shutil.copytree(run, before)
    steps = []
    for last in range(100):
        shutil.rmtree(run)
        shutil.copytree(before, run)
        with pytest.MonkeyPatch.context() as patched:
            events = Events(patched, run)
            events.last = last
            with suppress(Killed):
                save(training, run)
        steps.append(whole(run).resumes_at)
        if len(events.seen) < last:
            break
    assert len(steps) > 15
    assert steps == sorted(steps), "once the new state is vouched for, it stays so"
    assert set(steps) == {1, 2}


def test_adapter_can_be_read_by_whom_the_umask_lets(training: Training, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save(training, tmp_path / "run")
    finally:
        os.umask(before)
    files = list((tmp_path / "run" / "checkpoint-2").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files if path.is_file()} == {0o640}
