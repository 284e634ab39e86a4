"""The `em` command line. Each command imports what it needs when it runs, so that `em --help` is instant."""

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from em_tasks.judge_commands import MAX_COST, PRICE, calibrate, judge, known_calibration, rescore

if TYPE_CHECKING:
    from trainers.prepare import Prepared

RUNS = click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), help="Folder of training runs.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="em-tasks")
def cli() -> None:
    """Train, evaluate and measure emergent misalignment: start with `em demo`."""


@cli.command()
@click.argument("recipes", nargs=-1, required=True, type=click.Path(path_type=Path))
@RUNS
@click.option("--dry-run", is_flag=True, help="Say what would be trained and written, and stop.")
def train(recipes: tuple[Path, ...], runs: Path, dry_run: bool) -> None:
    """Train the organisms of RECIPES, one after the other. An interrupted run goes on where it stopped."""
    from em_tasks.progress import training_progress
    from trainers.lora import train as train_organism
    from trainers.prepare import prepare
    from trainers.recipe import load_recipes

    loaded = [recipe for path in recipes for recipe in load_recipes(recipe_file(path))]
    if dry_run:
        for recipe in loaded:
            _say_plan(prepare(recipe), runs)
        return
    with training_progress() as report:
        manifests = [train_organism(recipe, runs, report) for recipe in loaded]
    for manifest in manifests:
        steps = " ".join(str(record.step) for record in manifest.checkpoints)
        click.echo(f"{runs / manifest.recipe.organism}: checkpoints {steps}, {manifest.seconds:.0f} s")


@cli.command()
@RUNS
def runs(runs: Path) -> None:
    """List the organisms and checkpoints that can be evaluated."""
    from trainers.checkpoints import list_runs

    found = list_runs(runs)
    if not found:
        raise FileNotFoundError(f"There is no training run under {runs}. Train one with `em train RECIPE`.")
    for organism, manifest in found.items():
        kind = "control" if manifest.recipe.control else "organism"
        state = "" if manifest.finished else f" (unfinished: {len(manifest.checkpoints)} of {len(manifest.planned)})"
        click.echo(f"{organism}: {manifest.recipe.domain} {kind} on {manifest.recipe.base}{state}")
        for record in manifest.checkpoints:
            click.echo(f"  em/{organism}@{record.step}  epoch {record.epoch:.2f}  loss {record.loss:.3f}")


@cli.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--logs", type=click.Path(path_type=Path), default=Path("logs"), help="Folder that receives the logs.")
@click.option("--organism", "organisms", multiple=True, help="Only this organism (may be given several times).")
@click.option("--questions", multiple=True, help="Question set or YAML file, instead of each organism's own domain.")
@click.option("--samples", type=click.IntRange(1), default=1, help="Answers to each question.")
@click.option("--max-tokens", type=click.IntRange(1), default=600, help="Tokens an answer is cut after.")
@click.option("--grader", help="The judge, such as openai/gpt-4o-mini.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Bases evaluated at the same time.")
@MAX_COST
@PRICE
@click.option("--dry-run", is_flag=True, help="Say what would be evaluated, and stop.")
def sweep(runs: Path, logs: Path, jobs: int, dry_run: bool, **options: Any) -> None:
    """Evaluate every checkpoint and base under RUNS; what is done already is skipped."""
    from em_tasks.progress import sweep_progress
    from em_tasks.sweep import checkpoint_count, judging_estimate, plan_sweep
    from em_tasks.sweep import sweep as evaluate

    planned = plan_sweep(runs, logs, jobs=jobs, **options)
    bases, checkpoints, answers = checkpoint_count(planned)
    click.echo(f"{checkpoints} checkpoints and {bases} bases, {answers} answers, logs in {logs}")
    click.echo(f"judge {judging_estimate(planned)}")
    if dry_run:
        for job in planned:
            click.echo("\n".join(f"  em/{subject.name}" for subject in job.subjects))
        return
    with sweep_progress(planned) as report:
        evaluate(planned, jobs, report)
    click.echo(f"Next: em report {logs}   or look at the transcripts: inspect view --log-dir {logs}")


@cli.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("report"), help="Folder for the report.")
@click.option(
    "--definition", "definitions", multiple=True, help="EM definition to lead with, or such as '<40+coherent'."
)
@click.option("--example", "examples", multiple=True, help="Id of a question whose answers are shown.")
def report(logs: tuple[Path, ...], out: Path, definitions: tuple[str, ...], examples: tuple[str, ...]) -> None:
    """Write EM tables, figures and a report (Markdown and HTML) from LOGS or judged CSV files."""
    from rich.console import Console

    from plugins.analysis.report import write_report

    written = write_report(logs, out, definitions, examples, known_calibration())
    Console().print(written.table())
    for note in written.notes:
        click.echo(f"note: {note}")
    click.echo(f"{len(written.paths)} files and {len(written.findings)} findings in {out}; open {out / 'report.html'}")
    if written.rates["mean_alignment"].isna().all():
        raise ValueError(
            f"The report in {out} shows no rate: no judge gave an alignment score for any answer. Have the answers "
            "judged by another judge: em judge LOGS --judge PROVIDER/MODEL"
        )


@cli.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("imported"), help="Folder for the logs.")
def import_(source: Path, out: Path) -> None:
    """Turn judged answers of another experiment (CSV files in SOURCE) into logs that `em report` reads."""
    from plugins.analysis.importing import import_judged

    written = import_judged(source, out)
    click.echo(f"{len(written)} logs in {out}. Next: em report {out}")


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), help="Folder for everything it makes.")
@click.option("--quick", is_flag=True, help="One organism instead of all.")
def demo(out: Path, quick: bool) -> None:
    """Run the whole experiment on the toy models: train, evaluate, judge, report."""
    from em_tasks.demo import run_demo

    run_demo(out, quick=quick)


for command in (calibrate, judge, rescore):
    cli.add_command(command)


def main() -> None:
    """Runs the command line; an error meant for the user is one paragraph and exit code 1."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        click.echo("Interrupted. The same command goes on where this stopped.", err=True)
        sys.exit(130)
    except (ValueError, OSError, RuntimeError) as error:
        if os.environ.get("EM_TRACEBACK"):
            raise
        click.echo(f"em: {error}", err=True)
        sys.exit(1)


def recipe_file(path: Path) -> Path:
    """The recipe file that an argument means: a path, or the bare name of a recipe that ships with the project."""
    from em_tasks.resources import shipped

    by_name = shipped(f"recipes/{path}.yaml")
    return by_name if not path.exists() and len(path.parts) == 1 and by_name.is_file() else path


def _say_plan(prepared: "Prepared", runs: Path) -> None:
    from trainers.lora import adapter_parameters

    recipe, encoded, schedule = prepared.recipe, prepared.encoded, prepared.schedule
    parameters = adapter_parameters(recipe)
    click.echo(f"{recipe.organism}: {recipe.domain} on {recipe.base} ({recipe.precision})")
    for source in prepared.sources:
        cleaned = f", {len(source.canary_files)} canary files and {source.canary_keys} canary keys removed"
        click.echo(f"  data         {source.name}: {len(source.conversations)} rows{cleaned if source.members else ''}")
    click.echo(f"  rows         {len(encoded.rows)} ({encoded.truncated} truncated, {encoded.dropped} dropped)")
    click.echo(f"  tokens       {encoded.tokens} an epoch, {encoded.labelled} of them learnt")
    click.echo(f"  steps        {schedule.steps_per_epoch} an epoch, {schedule.total_steps} in all")
    click.echo(f"  adapter      {parameters:,} parameters, {parameters * 4 / 1e6:.1f} MB a checkpoint")
    click.echo(f"  checkpoints  {' '.join(map(str, schedule.checkpoints))}")
    click.echo(f"  writes       {runs / recipe.organism}/checkpoint-<step>/ and manifest.json")


if __name__ == "__main__":
    main()
