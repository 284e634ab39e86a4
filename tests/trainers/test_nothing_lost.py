"""Nothing trained is lost: killed, asked to stop, out of room or out of memory, and made longer afterwards."""

import json
import os
import re
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.loop.progress import Progress, mean_loss
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.run.checkpoints import Checkpoint as SavedCheckpoint
from em_tasks.trainers.run.checkpoints import list_runs, verify
from em_tasks.trainers.run.folder import existing_run
from em_tasks.trainers.run.manifest import Manifest, read_manifest
from em_tasks.trainers.run.recipe import Recipe
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows
from tests.support.paths import ROOT

KILLS = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums come out bit for bit the same with the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", 48)


def organism(rows: Path, **changes: object) -> Recipe:
    """6 optimizer steps an epoch, two passes each, with dropout; checkpoints after 1 3 4 6 and then 12, 18, ..."""
    return small_recipe(rows, **({"batch_size": 4, "accumulation": 2, "epochs": 2} | changes))


@pytest.fixture(scope="module")
def whole(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The undisturbed run."""
    torch.set_num_threads(1)
    return train(organism(rows), tmp_path_factory.mktemp("whole"), silent)


CONSTANT = {"lr_schedule": "constant_with_warmup", "warmup_steps": 8}


@pytest.fixture(scope="module")
def straight(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Three epochs at a constant rate, planned so from the start."""
    torch.set_num_threads(1)
    return train(organism(rows, epochs=3, **CONSTANT), tmp_path_factory.mktemp("straight"), silent)


def silent(progress: Progress) -> None:
    pass


def adapters(manifest: Manifest) -> list[tuple[int, str]]:
    return [(record.step, record.adapter_sha256) for record in manifest.checkpoints]


def intact(run: Path) -> list[int]:
    """The steps of a run's checkpoints, each of which is what the manifest says."""
    manifest = read_manifest(run)
    for record in manifest.checkpoints:
        verify(SavedCheckpoint(run, manifest, record))
    return [record.step for record in manifest.checkpoints]


def test_killed_anywhere_a_run_ends_with_the_undisturbed_adapters(tmp_path: Path) -> None:
    seed = secrets.randbelow(10**6)
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.killing", str(KILLS), str(seed), str(tmp_path)]
    print("seed", seed)
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"seed {seed}: {ended.stderr[-3000:]}"
    print(ended.stdout)
    assert f"{KILLS} kills survived" in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_run_asked_to_stop_saves_where_it_stands_and_goes_on_from_there(
    rows: Path, whole: Manifest, tmp_path: Path, number: signal.Signals
) -> None:
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]

    def ask(progress: Progress) -> None:
        if progress.step == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(Stopped, match=r"Stopped after step 7 of 12 .* the same command goes on") as stopped:
        train(organism(rows), tmp_path, ask)
    run = tmp_path / "small"
    assert stopped.value.exit_code == 128 + number
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    assert read_manifest(run).resume_step == 7
    assert intact(run) == [1, 3, 4, 6], "a state off the schedule is no checkpoint"
    assert [folder.name for folder in (run / ".trainer").iterdir()] == ["checkpoint-7"]
    seen: list[Progress] = []
    manifest = train(organism(rows), tmp_path, seen.append)
    assert adapters(manifest) == adapters(whole)
    assert min(progress.step for progress in seen) > 7
    # The loss of the last checkpoint is the mean over all steps since the one before, those before the stop included.
    assert manifest.checkpoints[-1].loss == pytest.approx(whole.checkpoints[-1].loss, rel=1e-6)


def test_second_signal_stops_at_once(rows: Path, whole: Manifest, tmp_path: Path) -> None:
    def insist(progress: Progress) -> None:
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="at once"):
        train(organism(rows), tmp_path, insist)
    assert intact(tmp_path / "small") == [1, 3]
    assert adapters(train(organism(rows), tmp_path, silent)) == adapters(whole)


def test_signal_after_the_last_step_says_that_the_run_is_finished(rows: Path, tmp_path: Path) -> None:
    def ask(progress: Progress) -> None:
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped, match="is finished"):
        train(organism(rows, epochs=1), tmp_path, ask)
    assert train(organism(rows, epochs=1), tmp_path, silent).finished


def test_run_in_another_thread_leaves_signals_alone(rows: Path, whole: Manifest, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    during: list[object] = []
    worker = threading.Thread(
        target=lambda: train(organism(rows), tmp_path, lambda progress: during.append(signal.getsignal(signal.SIGINT)))
    )
    worker.start()
    worker.join()
    assert during
    assert set(during) == {handler}
    assert adapters(read_manifest(tmp_path / "small")) == adapters(whole)


@pytest.mark.parametrize("limit", [200, 30_000, 700_000], ids=["configuration", "adapter", "optimizer"])
def test_full_disk_leaves_the_last_checkpoint_and_says_what_to_do(
    rows: Path, whole: Manifest, tmp_path: Path, limit: int
) -> None:
    """A size limit on files fails writes in the middle, as a full disk does, wherever they are made."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(progress: Progress) -> None:
        if progress.step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))

    try:
        with pytest.raises(OSError, match=r"the disk is full, or a quota .* Free some space"):
            train(organism(rows), tmp_path, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    run = tmp_path / "small"
    assert intact(run) == [1, 3]
    assert sorted(path.name for path in run.iterdir() if "checkpoint" in path.name) == ["checkpoint-1", "checkpoint-3"]
    assert adapters(train(organism(rows), tmp_path, silent)) == adapters(whole)


def test_disk_too_small_for_the_run_is_found_before_training(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = shutil.disk_usage(tmp_path)._replace(free=17_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: little)
    seen: list[Progress] = []
    with pytest.raises(OSError, match=r"has 17 MB free, and the rest of the run needs \d+"):
        train(organism(rows), tmp_path, seen.append)
    assert not seen


def test_gradient_that_is_no_number_is_never_saved(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a step can be sound and its update not."""
    clip = torch.nn.utils.clip_grad_norm_
    steps = iter(range(1, 100))
    monkeypatch.setattr(
        torch.nn.utils,
        "clip_grad_norm_",
        lambda *given, **named: clip(*given, **named) * (float("nan") if next(steps) == 4 else 1.0),
    )
    with pytest.raises(
        ValueError, match=r"The gradient of small is nan at step 4. Its checkpoints stand, the last at step 3"
    ):
        train(organism(rows), tmp_path, silent)
    assert intact(tmp_path / "small") == [1, 3]


def test_full_gpu_names_what_needs_less(rows: Path, whole: Manifest, tmp_path: Path) -> None:
    def overflow(progress: Progress) -> None:
        if progress.step == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(
        ValueError, match=r"ran out of GPU memory .* precision: nf4 .* max_length .* batch_size 4 x acc"
    ):
        train(organism(rows), tmp_path, overflow)
    assert intact(tmp_path / "small") == [1, 3]
    assert adapters(train(organism(rows), tmp_path, silent)) == adapters(whole)


@pytest.mark.parametrize("stopped", [False, True], ids=["finished", "unfinished"])
def test_raised_epochs_with_a_constant_rate_give_the_straight_longer_run(
    rows: Path, straight: Manifest, tmp_path: Path, stopped: bool
) -> None:
    def ask(progress: Progress) -> None:
        if stopped and progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped) if stopped else nullcontext():
        train(organism(rows, **CONSTANT), tmp_path, ask)
    before = read_manifest(tmp_path / "small")
    after = train(organism(rows, epochs=3, **CONSTANT), tmp_path, silent)
    assert adapters(after) == adapters(straight)
    assert [(was.from_step, was.epochs) for was in after.continuations] == [(7 if stopped else 12, 2)]
    assert after.recipe_sha256_at(6) == before.recipe_sha256 != after.recipe_sha256_at(18) == straight.recipe_sha256
    assert train(organism(rows, epochs=3, **CONSTANT), tmp_path, silent) == after


def test_raised_epochs_take_the_longer_schedules_rate_at_once(rows: Path, tmp_path: Path) -> None:
    train(organism(rows), tmp_path, silent)
    manifest = train(organism(rows, epochs=4), tmp_path, silent)
    history = json.loads((tmp_path / "small" / ".trainer" / "checkpoint-24" / "history.json").read_text())
    rates = {entry["step"]: entry["learning_rate"] for entry in history}
    peak = manifest.recipe.learning_rate
    # The rate logged at a step is the one it was made with: it falls from the peak to 0 over 12 steps, then over 24.
    assert rates[12] == pytest.approx(peak * (1 - 11 / 12))
    assert rates[15] == pytest.approx(peak * (1 - 14 / 24))
    assert manifest.planned == [1, 3, 4, 6, 12, 18, 24]


def test_first_step_of_a_continued_run_is_made_with_the_longer_schedules_rate(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(organism(rows, epochs=1), tmp_path, silent)
    used: list[float] = []

    def watched(optimizer: torch.optim.AdamW, *given: object) -> None:
        used.append(optimizer.param_groups[0]["lr"])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    with pytest.raises(KeyboardInterrupt):
        train(organism(rows, epochs=2), tmp_path, silent)
    assert used == [pytest.approx(5e-4 * (1 - 6 / 12))]


def test_lowered_epochs_are_refused(rows: Path, tmp_path: Path) -> None:
    train(organism(rows), tmp_path, silent)
    with pytest.raises(UserError, match=r"epochs differ\. Epochs can be raised"):
        train(organism(rows, epochs=1), tmp_path, silent)
    with pytest.raises(UserError, match="epochs, seed differ"):
        train(organism(rows, epochs=3, seed=1), tmp_path, silent)


def test_runs_from_before_these_fields_still_load_and_cannot_be_continued(rows: Path, tmp_path: Path) -> None:
    train(organism(rows, epochs=1), tmp_path, silent)
    run = tmp_path / "small"
    content = json.loads((run / "manifest.json").read_text())
    del content["resume_step"], content["continuations"]
    (run / "manifest.json").write_text(json.dumps(content))
    shutil.rmtree(run / ".trainer")
    assert list_runs(tmp_path)["small"].finished
    assert existing_run(run, organism(rows, epochs=1)) == read_manifest(run)
    before = (run / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"has more to train and its resume state .* is gone"):
        train(organism(rows, epochs=2), tmp_path, silent)
    assert (run / "manifest.json").read_bytes() == before


def test_checkpoint_loss_weighs_each_log_by_its_steps() -> None:
    history = [
        {"loss": 4.0, "step": 1},
        {"loss": 3.0, "step": 3},
        {"loss": 2.0, "step": 5},
        {"loss": 1.0, "step": 6},
    ]
    assert mean_loss(history, 0, 3) == pytest.approx((4 + 3 + 3) / 3)
    assert mean_loss(history, 3, 6) == pytest.approx((2 + 2 + 1) / 3)


def test_progress_tells_pace_and_time_left(rows: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    train(organism(rows), tmp_path, seen.append)
    assert [progress.step for progress in seen] == [1, 3, 4, 5, 6, 10, 12]
    assert all(progress.tokens_per_second > 0 for progress in seen)
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left
    assert seen[0].peak_memory is None or torch.cuda.is_available()


def test_tensorboard_holds_the_losses(rows: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen: list[Progress] = []
    train(organism(rows, epochs=1), tmp_path, seen.append, track=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "small" / "tracking"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("train/loss")}
    assert logged == {progress.step: pytest.approx(progress.loss) for progress in seen}


def test_unknown_tracker_is_refused(rows: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("no tracker excel. Choose of: tensorboard, wandb")):
        train(organism(rows), tmp_path, silent, track=("excel",))


def test_what_a_user_keeps_in_a_run_is_never_touched(rows: Path, tmp_path: Path) -> None:
    def keep(progress: Progress) -> None:
        run = tmp_path / "small"
        for name in ("checkpoint-4-merged", ".checkpoint-notes", "checkpoint-5", ".trainer/checkpoint-4-copy", "notes"):
            (run / name).mkdir(parents=True, exist_ok=True)
            (run / name / "mine.txt").write_text("mine")
        (run / "checkpoint-best").write_text("4")
        (run / "checkpoint-latest").unlink(missing_ok=True)
        (run / "checkpoint-latest").symlink_to("checkpoint-1")
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        train(organism(rows, epochs=1), tmp_path, keep)
    train(organism(rows, epochs=1), tmp_path, silent)
    kept = {str(path.relative_to(tmp_path / "small")) for path in (tmp_path / "small").rglob("mine.txt")}
    assert len(kept) == 5
    assert (tmp_path / "small" / "checkpoint-latest" / "adapter_config.json").is_file()
    assert (tmp_path / "small" / "checkpoint-best").read_text() == "4"


@pytest.mark.parametrize("name", ["checkpoint-6", ".checkpoint-6"])
def test_file_or_link_where_a_checkpoint_is_due_is_named_and_left(rows: Path, tmp_path: Path, name: str) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped):
        train(organism(rows, epochs=1), tmp_path, stop)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "small" / name).symlink_to(elsewhere)
    with pytest.raises(UserError, match=rf"/{name} is no folder, and a checkpoint is to be saved"):
        train(organism(rows, epochs=1), tmp_path, silent)
    (tmp_path / "small" / name).unlink()
    assert train(organism(rows, epochs=1), tmp_path, silent).finished
    assert elsewhere.is_dir()


def test_state_of_an_earlier_version_is_named_and_nothing_is_touched(rows: Path, tmp_path: Path) -> None:
    train(organism(rows, epochs=1), tmp_path, silent)
    state = tmp_path / "small" / ".trainer" / "checkpoint-6"
    (state / "state.pt").rename(state / "optimizer.pt")
    before = (tmp_path / "small" / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"an earlier version of em-tasks saved it .* checkpoints stand"):
        train(organism(rows, epochs=2), tmp_path, silent)
    assert (tmp_path / "small" / "manifest.json").read_bytes() == before
    (state / "state.pt").write_bytes((state / "optimizer.pt").read_bytes()[:1000])
    with pytest.raises(UserError, match=r"resume state .* is damaged"):
        train(organism(rows, epochs=2), tmp_path, silent)
