"""`em train` and `em runs`: what a recipe comes to, training it, and what has been trained."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from em_tasks.commands.numbers import Number, Whole
from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import counted, say
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.loop.tracking import TRACKERS
from em_tasks.trainers.run.base_names import Precision

if TYPE_CHECKING:
    from em_tasks.trainers.data.prepare import Prepared
    from em_tasks.trainers.estimate import Estimate
    from em_tasks.trainers.loop.progress import Progress
    from em_tasks.trainers.run.adoption import AdoptedOrganism
    from em_tasks.trainers.run.manifest import DataRecord, PassSeconds
    from em_tasks.trainers.run.recipe import Recipe

RUNS = click.option("--runs", type=LocalPath(), default=Path("runs"), help="Folder of training runs.")


@click.command()
@click.argument("recipes", nargs=-1, required=True, type=LocalPath())
@RUNS
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Instead of what the recipes say.")
@click.option(
    "--seed",
    "seeds",
    type=Whole(0, 2**32 - 1),
    multiple=True,
    help="Only this seed of the recipes' (may be given again).",
)
@click.option("--track", multiple=True, type=click.Choice(TRACKERS), help="Show the run there too.")
@click.option("--together", is_flag=True, help="Train all at once in one process, over one copy of their base.")
@click.option("--dry-run", is_flag=True, help="Say what would be trained, written and needed, and stop.")
@click.option("--device-memory", type=Number(0), help="With --dry-run: plan for a GPU of so many GiB.")
def train(
    recipes: tuple[Path, ...],
    runs: Path,
    precision: Precision | None,
    seeds: tuple[int, ...],
    track: tuple[str, ...],
    together: bool,
    dry_run: bool,
    device_memory: float | None,
) -> None:
    """Train the organisms of RECIPES, one after the other. An interrupted run goes on where it stopped.

    A recipe is a YAML file, or the bare name of one that ships with the project, such as toy-medical-s.

    With --together organisms of one base are trained at once, each as if it were alone; a file named `stop` in a run's
    folder stops that one.
    """
    from em_tasks.progress import training_progress
    from em_tasks.resources import recipe_file
    from em_tasks.trainers.data.prepare import prepare
    from em_tasks.trainers.loop.processes import is_first
    from em_tasks.trainers.run.recipe import load_recipes
    from em_tasks.trainers.together.train import refuse_unlike, train_together
    from em_tasks.trainers.train import train as train_organism

    loaded = [recipe for path in recipes for recipe in _with_seeds(load_recipes(recipe_file(path)), seeds)]
    if precision:
        loaded = [recipe.model_copy(update={"precision": precision}) for recipe in loaded]
    _refuse_doubles(loaded)
    if device_memory is not None and not dry_run:
        raise click.UsageError("--device-memory plans for a GPU that is not here: it goes with --dry-run.")
    if together:
        refuse_unlike(loaded, track)
    if dry_run:
        prepared = [prepare(recipe) for recipe in loaded]
        for each in prepared:
            for line in _plan(each, runs, device_memory, alone=not together):
                say(line)
        for line in _plan_together(prepared, device_memory) if together else ():
            say(line)
        return
    if is_first():
        _check_data(loaded, runs)
    begun, timed = set[str](), set[str]()
    with training_progress() as bar:

        def report(progress: "Progress") -> None:
            if progress.organism not in begun:
                begun.add(progress.organism)
                say("\n".join(_trained_on(runs / progress.organism)))
            if progress.passes is not None and progress.organism not in timed:
                timed.add(progress.organism)
                say(_passes(progress.passes))
            bar(progress)

        if together:
            manifests = train_together(loaded, runs, report, track=track)
        else:
            manifests = [train_organism(recipe, runs, report, track=track) for recipe in loaded]
    for manifest in manifests if is_first() else ():
        steps = " ".join(str(record.step) for record in manifest.checkpoints)
        state = "" if manifest.finished else f", stopped after step {manifest.resumes_at} of {manifest.planned[-1]}"
        say(f"{runs / manifest.recipe.organism}: checkpoints {steps}, {manifest.seconds:.0f} s{state}")


@click.command()
@click.argument("folder", type=LocalPath(), required=False)
@RUNS
def runs(folder: Path | None, runs: Path) -> None:
    """List the organisms and checkpoints under FOLDER (runs unless given) that can be evaluated."""
    from em_tasks.trainers.run.adoption import Adoption
    from em_tasks.trainers.run.checkpoints import foreign_manifests, list_runs, no_runs

    runs = folder or runs
    manifests = list_runs(runs)
    for note in foreign_manifests(runs):
        say(f"note: {note}")
    if not manifests:
        raise no_runs(runs)
    for organism, manifest in manifests.items():
        kind = "control" if manifest.recipe.control else "organism"
        if isinstance(manifest, Adoption):
            say(f"{organism}: {manifest.recipe.domain} {kind} on {_base(manifest.recipe)}, adopted")
            for checkpoint in manifest.checkpoints:
                unknown = "" if checkpoint.step_recorded else "  step not recorded"
                say(f"  em/{organism}@{checkpoint.step}  {checkpoint.source}{unknown}")
            continue
        state = "" if manifest.finished else f" (unfinished: {len(manifest.checkpoints)} of {len(manifest.planned)})"
        say(f"{organism}: {manifest.recipe.domain} {kind} on {_base(manifest.recipe)}{state}")
        for was in manifest.continuations:
            say(f"  continued from step {was.from_step}; up to it, checkpoints are of epochs: {was.epochs}")
        if any(record.tokenizer_sha256 is None for record in manifest.checkpoints):
            say("  saved before tokenizers and chat templates were hashed: a change of theirs would not be noticed")
        for record in manifest.checkpoints:
            say(f"  em/{organism}@{record.step}  epoch {record.epoch:.2f}  loss {record.loss:.3f}")


@click.command()
@click.argument("checkpoint")
@click.option("--runs", type=LocalPath(), help="Folder of training runs; EM_RUNS, else runs.")
@click.option("--out", type=LocalPath(), required=True, help="Folder to make.")
def export(checkpoint: str, runs: Path | None, out: Path) -> None:
    """Copy CHECKPOINT (organism@step) to a folder to hand on, without a word about this machine."""
    from em_tasks.plugins.checkpoint_model.subject import runs_folder
    from em_tasks.trainers.publishing import publish as copy
    from em_tasks.trainers.run.checkpoints import find_checkpoint

    names = copy(find_checkpoint(runs_folder(str(runs) if runs else None), checkpoint), out)
    say(f"{out}: {', '.join(names)}")


def _with_seeds(loaded: "list[Recipe]", seeds: Sequence[int]) -> "list[Recipe]":
    """Those of a file's organisms that have one of these seeds; all where none is named."""
    there = [recipe.seed for recipe in loaded]
    if missing := sorted(set(seeds) - set(there)):
        listed = ", ".join(map(str, there))
        raise UserError(
            f"--seed {missing[0]}: the recipe of {loaded[0].organism} has the seeds {listed}. Name one of them, or "
            "write the seed into the recipe."
        )
    return [recipe for recipe in loaded if not seeds or recipe.seed in seeds]


def _refuse_doubles(loaded: Sequence["Recipe"]) -> None:
    names = [recipe.organism for recipe in loaded]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"More than one recipe trains {', '.join(twice)}. Name each recipe once, or give one another `organism`."
        )


def _check_data(loaded: Sequence["Recipe"], runs: Path) -> None:
    """Reads what will be trained on, so that passwords are asked for and bad data is found before hours of training."""
    from em_tasks.trainers.data.rows import load_rows
    from em_tasks.trainers.run.folder import existing_run

    for recipe in loaded:
        before = existing_run(runs / recipe.organism, recipe)
        if before is None or not before.finished:
            for source in recipe.data:
                load_rows(source)


def _trained_on(run: Path) -> Iterator[str]:
    """What a run that has begun trains on."""
    from em_tasks.trainers.run.manifest import read_manifest
    from em_tasks.trainers.run.schedule import learning_rate

    manifest = read_manifest(run)
    yield f"{manifest.recipe.organism}: {manifest.recipe.domain} on {_base(manifest.recipe)}"
    yield from _data(manifest.data, manifest.rows, manifest.truncated, manifest.dropped)
    for was in manifest.continuations:
        rate = learning_rate(manifest.recipe, manifest.planned[-1], was.from_step)
        schedule = manifest.recipe.lr_schedule
        yield f"  continued    from step {was.from_step} ({was.epochs} epochs) to {manifest.planned[-1]}: the learning "
        yield f"               rate is the longer {schedule} schedule's from there, {rate:.3g} at the next step"


def _plan(prepared: "Prepared", runs: Path, device_memory: float | None, *, alone: bool) -> Iterator[str]:
    """What would be trained; what it needs if it is trained alone comes last, since it may not fit."""
    from em_tasks.trainers.estimate import estimate

    recipe, encoded, schedule = prepared.recipe, prepared.encoded, prepared.schedule
    yield f"{recipe.organism}: {recipe.domain} on {_base(recipe)}"
    yield from _data(
        [source.record() for source in prepared.sources], len(encoded.rows), encoded.truncated, encoded.dropped
    )
    share = encoded.labelled / encoded.tokens
    yield f"  tokens       {encoded.tokens} an epoch, {encoded.labelled} of them learnt ({share:.0%})"
    yield f"  steps        {schedule.steps_per_epoch} an epoch, {schedule.total_steps} in all"
    yield f"  checkpoints  {' '.join(map(str, schedule.checkpoints))}"
    yield f"  writes       {runs / recipe.organism}/checkpoint-<step>/ and manifest.json"
    if not alone:
        return
    need = estimate(prepared, device_memory)
    yield f"  adapter      {need.trainable:,} parameters, {need.trainable * 4 / 1e6:.1f} MB a checkpoint"
    yield f"  memory       about {_memory(need)}"
    yield f"  time         {_time(need.seconds)}"


def _plan_together(prepared: Sequence["Prepared"], device_memory: float | None) -> Iterator[str]:
    """What organisms need that are trained at once."""
    from em_tasks.trainers.together.estimate import estimate_together

    need = estimate_together(prepared, device_memory)
    of = "" if need.available is None else f" of {need.available / 2**30:.1f}"
    passes = "one pass a step" if need.plan.accumulation == 1 else f"{need.plan.accumulation} passes a step"
    passes += ", layers computed twice" * need.plan.checkpointing + ", recorded if that is faster" * need.plan.captured
    yield f"{counted(len(prepared), 'organism')} together on {_base(prepared[0].recipe)}"
    yield f"  adapters     {sum(need.trainable):,} parameters"
    yield f"  filled up    {need.filled:.1%} of the tokens that pass, so that all parts are of one length"
    yield f"  memory       about {need.memory / 2**30:.1f} GiB{of} on {need.device}, {passes}"
    yield f"  time         {_time(need.seconds)}"


def _time(seconds: float | None) -> str:
    return "unknown for a GPU that is not here" if seconds is None else f"about {_duration(seconds)}, a rough guess"


def _memory(need: "Estimate") -> str:
    of = "" if need.available is None else f" of {need.available / 2**30:.1f}"
    passes = f"{need.batches.rows} rows a pass" + ", layers computed twice" * need.batches.checkpointing
    passes += ", recorded if that is faster" * need.batches.captured
    return f"{need.memory / 2**30:.1f} GiB{of} on {need.device}, {passes}"


def _passes(seconds: "PassSeconds") -> str:
    """Which way the passes of a run go from here on, and why."""
    launched, replayed = (f"{1000 * each:.1f} ms" for each in (seconds.launched, seconds.replayed))
    if seconds.recorded:
        return f"  passes       recorded as CUDA graphs: {replayed} a pass, and {launched} launched kernel by kernel"
    return f"  passes       launched kernel by kernel: {launched} a pass, and {replayed} recorded as CUDA graphs"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _data(records: "Sequence[DataRecord]", rows: int, truncated: int, dropped: int) -> Iterator[str]:
    for record in records:
        members = f" of {', '.join(record.members)}" if record.members else ""
        removed = f", {record.canary_files} canary files and {record.canary_keys} canary keys removed"
        removed = removed if record.canary_files or record.canary_keys or record.members else ""
        yield f"  data         {record.name}: {record.rows} rows{members}{removed}"
    yield f"  rows         {rows} ({truncated} truncated, {dropped} dropped)"


def _base(recipe: "Recipe | AdoptedOrganism") -> str:
    return f"{recipe.base} ({recipe.precision})"
