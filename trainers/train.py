"""One training run, from recipe to checkpoints.

`train` reads from top to bottom: rows, tokens, schedule, base, adapter, steps. The state that training goes on from
lies in `runs/<organism>/.trainer/`; at every scheduled step a finished checkpoint is put beside it in one rename and
entered in the manifest. Killed at any moment, the same call goes on from the
last entry; asked to stop, it saves first; with more epochs in the recipe, it goes on from the end.
"""

import gc
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.adapter import add_adapter
from em_tasks.trainers.base import fingerprint, load_base
from em_tasks.trainers.data.prepare import prepare
from em_tasks.trainers.loop.processes import (
    from_first,
    is_first,
    join,
    largest,
    own_device,
    process_count,
    together,
)
from em_tasks.trainers.loop.stopping import Stopped, stop_requests
from em_tasks.trainers.loop.tracking import need_trackers, tracked_in
from em_tasks.trainers.passes.batches import capturable, free_bytes, plan_batches, rows_a_process
from em_tasks.trainers.run.checkpoints import Checkpoint, verify
from em_tasks.trainers.run.folder import (
    alone,
    clear_unrecorded,
    existing_run,
    refuse_other_data,
    refuse_unplanned,
    resume_state,
)
from em_tasks.trainers.run.manifest import Manifest, read_manifest, write_manifest

if TYPE_CHECKING:
    from em_tasks.trainers.loop.progress import Progress
    from em_tasks.trainers.run.recipe import Recipe


def train(
    recipe: "Recipe",
    runs: Path,
    report: Callable[["Progress"], None],
    *,
    track: Sequence[str] = (),
    planned: Sequence[str] | None = None,
) -> Manifest:
    """Trains a recipe's organism into `runs/<organism>`, or finishes or continues the run that is there.

    A recipe whose `epochs` were raised continues its run from the last state. From there on the learning rate is what
    the longer schedule gives at each step: `linear` and `cosine`, which had fallen to 0 by the end of the shorter run,
    rise again at once (from 3 epochs to 20, linear: to 85 % of the peak), so that the result is not that of a run which
    had the longer plan from the start; with `constant_with_warmup` it is, bit for bit on a CPU.

    Under torchrun every process calls this; the first one alone writes and reports.

    Args:
        recipe: What to train.
        runs: Folder of all runs.
        report: Called every few optimizer steps and at every save.
        track: Where the losses are told to as well: `tensorboard`, `wandb`; files in `runs/<organism>/tracking`.
        planned: SHA-256 of each file of data as it was when the run was planned; None where nobody looked.

    Returns:
        The manifest of the finished run.

    Raises:
        UserError: Another process is training this run.
        UserError: The folder holds another recipe's run, or something that is no run.
        UserError: The data or the base is not there, or the data is not what was planned with.
        OSError: The disk is full. What was saved stands.
        Stopped: SIGINT or SIGTERM came; where the run stood after the step at hand is saved.
        UserError: The recipe does not fit the data, the base, the processes or the GPU's memory, or the loss is not a
            number any more.
    """
    # Batches differ in length: without this, what they leave behind would break up the memory of a nearly full GPU.
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    import torch

    run = runs / recipe.organism
    need_trackers(track)
    join()
    # What is refused is refused before anything is made, the lock included.
    from_first(lambda: existing_run(run, recipe))
    with ExitStack() as held:
        from_first(lambda: held.enter_context(alone(run)))
        try:
            return _train(recipe, run, report, track, planned)
        except torch.OutOfMemoryError as error:
            raise UserError(out_of_memory(recipe, run)) from error


def _train(
    recipe: "Recipe",
    run: Path,
    report: Callable[["Progress"], None],
    track: Sequence[str],
    planned: Sequence[str] | None,
) -> Manifest:
    """`train`, with the run to ourselves."""
    before = from_first(lambda: sound(run, recipe))
    if before is not None and before.finished:
        return before
    prepared = from_first(lambda: prepare(recipe))
    read = [source.sha256 for source in prepared.sources]
    from_first(lambda: refuse_other_data(run, before, read))
    from_first(lambda: refuse_unplanned(recipe, planned, read))

    import torch

    from em_tasks.trainers.loop.training import Training
    from em_tasks.trainers.loop.whole_run import train_to_the_end

    torch.manual_seed(recipe.seed)
    with together():
        rows = rows_a_process(recipe.effective_batch, process_count())
        device = own_device()
        model = load_base(recipe.base, recipe.precision, device)
        manifest = before or prepared.manifest(fingerprint(model), model.num_parameters())
        if manifest.base_fingerprint != fingerprint(model):
            raise UserError(
                f"{run} was begun on another base than {recipe.base} is now (or at another precision). "
                "Bring the old base back, or move the run away to begin anew."
            )
        adapted = add_adapter(model, recipe)
    # All processes take equal shares, so the fullest GPU decides.
    free = free_bytes(adapted, device)
    free = None if free is None else -largest(-free)
    with together():
        recorded = capturable(recipe.precision, process_count())
        batches = plan_batches(prepared.encoded.rows, model.config, rows, free, capturable=recorded)
    resume_from = from_first(lambda: resume_state(run, manifest))
    manifest.together = {}
    from_first(lambda: begin(run, manifest))
    with stop_requests(say=is_first()) as request, tracked_in(run, track if is_first() else ()) as tell:
        training = Training(prepared, adapted, batches, device)
        if resume_from is not None:
            with together():
                training.read_state(resume_from)
        train_to_the_end(training, run, manifest, report, request, tell)
        stopped = largest(request.number)
    # The next organism needs the memory, and the compiler keeps what it compiled.
    del training, adapted, model
    if batches.compiled:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    manifest = from_first(lambda: read_manifest(run))
    if stopped and not is_first():
        raise SystemExit(128 + stopped)
    if stopped:
        how = "is finished" if manifest.finished else "the same command goes on from there"
        raise Stopped(f"Stopped after step {manifest.resumes_at} of {manifest.planned[-1]} of {run}: {how}.", stopped)
    return manifest


def sound(run: Path, recipe: "Recipe") -> Manifest | None:
    """The run that is there, its checkpoints checked."""
    before = existing_run(run, recipe)
    if before is not None:
        for record in before.checkpoints:
            verify(Checkpoint(run, before, record))
    return before


def begin(run: Path, manifest: Manifest) -> None:
    """Writes a run's manifest, and clears what an interrupted save left."""
    write_manifest(run, manifest)
    clear_unrecorded(run, manifest)


def out_of_memory(recipe: "Recipe", run: Path) -> str:
    """What to tell the user when the GPU's memory is full."""
    import torch

    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (0, 0)
    return (
        f"Training {run} ran out of GPU memory ({total / 2**30:.0f} GiB in all, {free / 2**30:.1f} free just now). "
        "What was saved stands. If other programs use the GPU, end them and give the same command again: it goes on "
        "from the last save, in smaller passes if need be. Else give an organism of another name precision: nf4 (now "
        f"{recipe.precision}), a lower max_length (now {recipe.max_length}) or fewer rows a step (now batch_size "
        f"{recipe.batch_size} x accumulation {recipe.accumulation}), or use a larger GPU."
    )
