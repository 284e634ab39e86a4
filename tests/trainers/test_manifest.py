"""A run's manifest: where training goes on, which plan a checkpoint was made under, and what is on disk when."""

import os
from pathlib import Path

import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.manifest import CheckpointRecord, Continuation, Manifest, read_manifest, write_manifest
from tests.support.organisms import small_recipe


def manifest(*steps: int, **changes: object) -> Manifest:
    records = [CheckpointRecord(step=step, epoch=step / 2, loss=1.5, adapter_sha256=f"{step:064x}") for step in steps]
    fields: dict[str, object] = {
        "recipe": small_recipe(Path("rows.jsonl")), "recipe_sha256": "now", "data": [], "rows": 64, "truncated": 1,
        "dropped": 2, "steps_per_epoch": 2, "planned": [1, 2, 4], "base_fingerprint": "f" * 64, "base_parameters": 1000,
        "versions": {"torch": "2"}, "checkpoints": records,
    }  # fmt: skip
    return Manifest.model_validate(fields | changes)


def test_training_goes_on_from_the_state_or_else_from_the_last_checkpoint() -> None:
    assert [manifest().resumes_at, manifest(1, 2).resumes_at] == [0, 2]
    assert manifest(1, 2, resume_step=3).resumes_at == 3
    assert manifest(1, 2, resume_step=0).resumes_at == 0


def test_a_run_is_finished_when_every_planned_checkpoint_is_there_and_no_other() -> None:
    assert [manifest(*steps).finished for steps in ((), (1, 2), (1, 4), (1, 2, 4), (1, 2, 3, 4))] == [
        False, False, False, True, False,
    ]  # fmt: skip


def test_a_checkpoint_has_the_hash_of_the_plan_it_was_made_under() -> None:
    raised = [
        Continuation(from_step=2, epochs=1, recipe_sha256="first"),
        Continuation(from_step=4, epochs=2, recipe_sha256="second"),
    ]
    run = manifest(1, 2, 4, continuations=raised)
    assert [run.recipe_sha256_at(step) for step in (1, 2, 3, 4, 5)] == ["first", "first", "second", "second", "now"]
    assert manifest(1).recipe_sha256_at(1) == "now"


def test_what_is_written_is_read_and_an_old_manifest_has_the_fields_that_came_later(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(1, 2, seconds=3.5))
    assert read_manifest(tmp_path) == manifest(1, 2, seconds=3.5)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
    old = manifest(1)
    assert (old.seconds, old.resume_step, old.continuations) == (0, None, [])
    assert (old.checkpoints[0].reference_sha256, old.checkpoints[0].tokenizer_sha256) == (None, None)


def test_the_manifest_is_on_disk_before_it_takes_the_old_ones_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path, manifest())
    seen: list[tuple[bool, int]] = []
    sync = os.fsync

    def watched(handle: int) -> None:
        file = os.fstat(handle)
        seen.append((Path(tmp_path).stat().st_ino == file.st_ino, len(read_manifest(tmp_path).checkpoints)))
        sync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write_manifest(tmp_path, manifest(1))
    assert seen == [(False, 0), (True, 1)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"recipe": ', r"manifest\.json is damaged \(it is no JSON, or was cut off\)\. Restore it, or move"),
        ("{}", r"manifest\.json is damaged \(its recipe is wrong: Field required\)\. Restore it, or move"),
    ],
)
def test_damaged_manifest_is_said_in_a_sentence(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=said):
        read_manifest(tmp_path)
