"""Several runs of one base at once, from recipes to checkpoints; each ends, fails or is stopped alone.

Every run's folder holds what a run of its own would have left there, so that a run begun together can be gone on with
alone, and the other way round. After a kill some have saved later than others: those keep the others company until all
stand where they stood, so that the numbers are those of the undisturbed runs.
"""

import gc
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.adapter import add_adapter, empty_model
from em_tasks.trainers.base import fingerprint, load_base
from em_tasks.trainers.data.prepare import Prepared, prepare
from em_tasks.trainers.loop.processes import own_device, process_count
from em_tasks.trainers.loop.stopping import Stopped, StopRequest, stop_requests
from em_tasks.trainers.loop.tracking import need_trackers, tracked_in
from em_tasks.trainers.passes.batches import BatchPlan, free_bytes
from em_tasks.trainers.run.base_names import resolve_base
from em_tasks.trainers.run.folder import alone, existing_run, refuse_other_data, refuse_unplanned, resume_state
from em_tasks.trainers.run.manifest import Manifest, read_manifest
from em_tasks.trainers.together.plan import plan_together
from em_tasks.trainers.train import begin, sound

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from em_tasks.trainers.loop.progress import Progress
    from em_tasks.trainers.loop.whole_run import Watched
    from em_tasks.trainers.run.recipe import Recipe
    from em_tasks.trainers.together.plan import JointPlan

STOP = "stop"
"""A file of this name in a run's folder stops the run, which saves first; it is removed."""


@dataclass
class Member:
    """One of the organisms that are trained together.

    Attributes:
        watched: Its run.
        ahead: Steps that it has made, and those beside it still have to make.
    """

    watched: "Watched"
    ahead: int

    @property
    def done(self) -> bool:
        """Whether it has nothing to do here any more."""
        return self.watched.finished and not self.ahead


@dataclass
class Ended:
    """How runs ended that did not finish: what is to be said of each."""

    failed: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


def train_together(
    recipes: Sequence["Recipe"],
    runs: Path,
    report: Callable[["Progress"], None],
    *,
    track: Sequence[str] = (),
    planned: Mapping[str, Sequence[str]] | None = None,
) -> list[Manifest]:
    """Trains the organisms of several recipes of one base in one process, each into `runs/<organism>`.

    What is finished is left as it is, and what was begun goes on. An organism whose loss is no number any more, whose
    folder cannot be written, or in whose folder a file `stop` appears, ends alone.

    Args:
        recipes: What to train.
        runs: Folder of all runs.
        report: As for `em_tasks.trainers.train.train`.
        track: Likewise.
        planned: SHA-256 of each organism's files of data as they were when the runs were planned, by its name.

    Returns:
        The manifests in the recipes' order.

    Raises:
        UserError: The recipes differ in base or precision, one of them cannot be trained (see
            `em_tasks.trainers.train.train`), or they do not fit into the memory together: before anything is trained.
        UserError: Organisms failed; each is named with its reason, and the others are trained.
        Stopped: SIGINT or SIGTERM came, or organisms were stopped; each is saved where it stood.
    """
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    need_trackers(track)
    refuse_unlike(recipes, track)
    folders = {recipe.organism: runs / recipe.organism for recipe in recipes}
    for recipe in recipes:
        existing_run(folders[recipe.organism], recipe)
    with ExitStack() as held:
        for run in folders.values():
            held.enter_context(alone(run))
        ended = _train(recipes, folders, report, track, planned or {})
    if ended.failed:
        raise UserError(" ".join([*ended.failed, *ended.stopped]))
    return [read_manifest(run) for run in folders.values()]


def refuse_unlike(recipes: Sequence["Recipe"], track: Sequence[str] = ()) -> None:
    """Refuses what cannot be trained together.

    Raises:
        UserError: Recipes differ in base or precision, or there are several processes.
    """
    if process_count() > 1:
        raise UserError(
            f"{process_count()} processes were started, and --together trains in one. Give each GPU a command of its "
            "own, with a part of the recipes (CUDA_VISIBLE_DEVICES)."
        )
    if "wandb" in track and len(recipes) > 1:
        raise UserError(
            "Weights & Biases follows one run a process. Use --track tensorboard, or train without --together."
        )
    kinds: dict[tuple[str, str], list[Recipe]] = {}
    for recipe in recipes:
        kinds.setdefault((str(resolve_base(recipe.base)), recipe.precision), []).append(recipe)
    if len(kinds) > 1:
        listed = "; ".join(
            f"{alike[0].base} in {alike[0].precision}: {', '.join(recipe.organism for recipe in alike)}"
            for alike in kinds.values()
        )
        raise UserError(
            f"Organisms are trained together over one copy of one base, and these have {len(kinds)}: {listed}. Give "
            "each group to a command of its own, or change base or precision in the recipes."
        )


def _train(
    recipes: Sequence["Recipe"],
    folders: dict[str, Path],
    report: Callable[["Progress"], None],
    track: Sequence[str],
    planned: Mapping[str, Sequence[str]],
) -> Ended:
    """`train_together`, with the runs to ourselves."""
    before = {recipe.organism: sound(folders[recipe.organism], recipe) for recipe in recipes}
    began, ahead = company(before)
    if not began:
        return Ended()
    left = [recipe for recipe in recipes if recipe.organism in ahead]
    prepared = [prepare(recipe) for recipe in left]
    for each in prepared:
        name = each.recipe.organism
        read = [source.sha256 for source in each.sources]
        refuse_other_data(folders[name], before[name], read)
        refuse_unplanned(each.recipe, planned.get(name), read)

    import torch

    device = own_device()
    base = load_base(left[0].base, left[0].precision, device).requires_grad_(False)
    mark = fingerprint(base)
    for recipe in left:
        run = before[recipe.organism]
        if run is not None and run.base_fingerprint != mark:
            raise UserError(
                f"{folders[recipe.organism]} was begun on another base than {recipe.base} is now (or at another "
                "precision). Bring the old base back, or move the run away to begin anew."
            )
    plan = plan_together(prepared, trainable_numbers(left), base.config, free_bytes(base, device))
    try:
        return _steps(prepared, before, began, ahead, folders, base, plan, device, report, track)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"Training {len(left)} organisms together ran out of GPU memory. What was saved stands. Give the same "
            "command with fewer of them (`em grid` with --alone): they go on from the last save."
        ) from error
    finally:
        del base
        if plan.compiled:
            torch.compiler.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def company(before: Mapping[str, Manifest | None]) -> tuple[dict[str, int], dict[str, int]]:
    """Who trains together from here on.

    Args:
        before: The runs that are there, by organism; None for one that is not begun.

    Returns:
        At which step each began to train with the others; and how many steps each that takes part is ahead of the
        hindmost. A run that is finished takes part as long as others stand where it had not finished. Both are empty
        if all are finished.
    """
    stands = {name: run.resumes_at if run else 0 for name, run in before.items()}
    left = [name for name, run in before.items() if not (run and run.finished)]
    if not left:
        return {}, {}
    first = before[left[0]]
    began = first.together if first else {}
    others = [before.get(name) for name in began]
    if not began.keys() >= set(left) or any(run is None or run.together != began for run in others):
        began = {name: stands[name] for name in left}  # They meet here for the first time.
    made = {name: stands[name] - step for name, step in began.items()}
    hindmost = min(made[name] for name in left)
    return began, {name: made[name] - hindmost for name in began if name in left or made[name] > hindmost}


def trainable_numbers(recipes: Sequence["Recipe"]) -> list[int]:
    """How many numbers each recipe's adapter has."""
    counts: dict[Any, int] = {}
    for recipe in recipes:
        if recipe.lora not in counts:
            parameters = empty_model(recipe).parameters()
            counts[recipe.lora] = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    return [counts[recipe.lora] for recipe in recipes]


def _steps(
    prepared: Sequence[Prepared],
    before: dict[str, Manifest | None],
    began: dict[str, int],
    ahead: dict[str, int],
    folders: dict[str, Path],
    base: "PreTrainedModel",
    plan: "JointPlan",
    device: str,
    report: Callable[["Progress"], None],
    track: Sequence[str],
) -> Ended:
    from em_tasks.trainers.loop.whole_run import Watched

    mark, size = fingerprint(base), base.num_parameters()
    with ExitStack() as opened:
        request = opened.enter_context(stop_requests(say=True))
        members: list[Member] = []
        for each in prepared:
            name = each.recipe.organism
            run, manifest = folders[name], before[name] or each.manifest(mark, size)
            training = begun(each, base, device)
            if manifest.finished:  # Company only, of which no number reaches another.
                training.step = manifest.resumes_at
            else:
                state = resume_state(run, manifest)
                manifest.together = began
                begin(run, manifest)
                if state is not None:
                    training.read_state(state)
            watched = Watched(training, run, manifest, report, opened.enter_context(tracked_in(run, track)))
            members.append(Member(watched, ahead[name]))
        del training, watched  # The last one's recorded passes would stay with it when it has ended.
        ended = Ended()
        while members:
            members = _until_one_ends(members, base, plan, device, request, ended)
        if request.number:
            how = " ".join([*ended.failed, *ended.stopped])
            raise Stopped(f"Stopped: {how} The same command goes on from there.", request.number)
    return ended


def begun(prepared: Prepared, base: "PreTrainedModel", device: str) -> Any:
    """An organism at its beginning, as a run of its own begins it."""
    import torch

    from em_tasks.trainers.loop.training import Training
    from em_tasks.trainers.together.adapters import shared_copy

    torch.manual_seed(prepared.recipe.seed)
    model = add_adapter(shared_copy(base), prepared.recipe)
    generators = {"cpu": torch.Generator()}
    whole = BatchPlan(prepared.recipe.effective_batch, 1, checkpointing=False, compiled=False)
    return Training(prepared, model, whole, device, generators)


def _let_go(members: Sequence[Member], plan: "JointPlan") -> None:
    """Drops what was compiled and recorded, which holds the organisms that have ended, and memory."""
    import torch

    if plan.compiled:
        torch.compiler.reset()
    if plan.captured:
        for each in members:
            each.watched.training.captured = None
        gc.collect()


def _until_one_ends(
    members: Sequence[Member],
    base: "PreTrainedModel",
    plan: "JointPlan",
    device: str,
    request: StopRequest,
    ended: Ended,
) -> list[Member]:
    """Makes steps until an organism has ended, one way or the other; gives those that have more to train."""
    from em_tasks.trainers.together.steps import Together

    _let_go(members, plan)
    group, going = Together([each.watched.training for each in members], base, plan, device), list(members)
    while len(going) == len(members):
        made = iter(group.advance([each.ahead for each in members]))
        for each in members:
            watched = each.watched
            run, total = watched.saver.run, watched.training.prepared.schedule.total_steps
            alone_stopped = (run / STOP).exists()
            stop = bool(request.number) or alone_stopped  # Asked for later, it is the next step that is saved.
            if alone_stopped:
                watched.manifest.together = {}
            if each.ahead:
                each.ahead -= 1
            else:
                try:
                    watched.step_made(next(made), stop=stop)
                except (UserError, OSError) as error:
                    ended.failed.append(f"{run}: {error}")
                    going.remove(each)
                    continue
            if alone_stopped:
                (run / STOP).unlink()
            if each.done:
                going.remove(each)
            elif stop:
                going.remove(each)
                if not watched.finished:
                    ended.stopped.append(f"{run} after step {watched.training.step} of {total}.")
    return going
