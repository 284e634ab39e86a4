"""The `em` command line. Each command imports what it needs when it runs, so that `em --help` is instant."""

import os
import sys
from pathlib import Path
from typing import Any, get_args

import click

from em_tasks.commands.adopt import adopt
from em_tasks.commands.judge import MAX_COST, PRICE, calibrate, judge, known_calibration, rescore
from em_tasks.commands.serve import serve
from em_tasks.commands.train import runs, train
from em_tasks.plugins.errors import UserError
from em_tasks.quiet import quiet_libraries
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.run.base_names import Precision


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="em-tasks")
def cli() -> None:
    """Train, evaluate and measure emergent misalignment: start with `em demo`."""


@cli.command()
@click.argument("runs", type=click.Path(path_type=Path))
@click.option("--logs", type=click.Path(path_type=Path), default=Path("logs"), help="Folder that receives the logs.")
@click.option("--organism", "organisms", multiple=True, help="Only this organism (may be given several times).")
@click.option("--questions", multiple=True, help="Question set or YAML file, instead of each organism's own domain.")
@click.option("--samples", type=click.IntRange(1), default=1, help="Answers to each question.")
@click.option("--max-tokens", type=click.IntRange(1), default=600, help="Tokens an answer is cut after.")
@click.option("--grader", help="The judge, such as openai/gpt-4o-mini.")
@click.option("--base", help="Evaluate on this base, knowingly, instead of the one that was trained on.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Evaluate at this precision, knowingly.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Bases evaluated at the same time.")
@MAX_COST
@PRICE
@click.option("--dry-run", is_flag=True, help="Say what would be evaluated, and stop.")
def sweep(runs: Path, logs: Path, jobs: int, dry_run: bool, **options: Any) -> None:
    """Evaluate every checkpoint and base under RUNS; what is done already is skipped."""
    from em_tasks.progress import sweep_progress
    from em_tasks.sweep.sweep import checkpoint_count, judging_estimate, plan_sweep
    from em_tasks.sweep.sweep import sweep as evaluate

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

    from em_tasks.plugins.analysis.report.report import write_report

    written = write_report(logs, out, definitions, examples, known_calibration())
    Console().print(written.table())
    for note in written.notes:
        click.echo(f"note: {note}")
    click.echo(f"{len(written.paths)} files and {len(written.findings)} findings in {out}; open {out / 'report.html'}")
    if written.rates["mean_alignment"].isna().all():
        raise UserError(
            f"The report in {out} shows no rate: no judge gave an alignment score for any answer. Have the answers "
            "judged by another judge: em judge LOGS --judge PROVIDER/MODEL"
        )


@cli.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("imported"), help="Folder for the logs.")
def import_(source: Path, out: Path) -> None:
    """Turn judged answers of another experiment (CSV files in SOURCE) into logs that `em report` reads."""
    from em_tasks.plugins.analysis.importing.logs import import_judged

    written = import_judged(source, out)
    click.echo(f"{len(written)} logs in {out}. Next: em report {out}")


@cli.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), help="Folder for everything it makes.")
@click.option("--quick", is_flag=True, help="One organism instead of all.")
def demo(out: Path, quick: bool) -> None:
    """Run the whole experiment on the toy models: train, evaluate, judge, report."""
    from em_tasks.commands.demo import run_demo

    run_demo(out, quick=quick)


for command in (adopt, train, runs, calibrate, judge, rescore, serve):
    cli.add_command(command)


def main() -> None:
    """Runs the command line; an error meant for the user is one paragraph and exit code 1."""
    quiet_libraries()
    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        # Click turns every KeyboardInterrupt into an Abort.
        asked = error.__cause__ if isinstance(error, click.exceptions.Abort) else error
        if isinstance(asked, Stopped):
            click.echo(str(asked), err=True)
            sys.exit(asked.exit_code)
        click.echo("Interrupted. The same command goes on where this stopped.", err=True)
        sys.exit(130)
    except UserError as error:
        if os.environ.get("EM_TRACEBACK"):
            raise
        click.echo(f"em: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        # What the operating system refuses, with the file's name. Errors of Python code have no number and show it all.
        if error.errno is None or os.environ.get("EM_TRACEBACK"):
            raise
        click.echo(f"em: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
