"""`em sweep`: every checkpoint and base asked and judged, with what that comes to said first."""

from pathlib import Path
from typing import Any, get_args

import click

from em_tasks.commands.judge import MAX_COST, PRICE
from em_tasks.commands.terminal import counted, say
from em_tasks.trainers.run.base_names import Precision


@click.command()
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
    say(
        f"{counted(checkpoints, 'checkpoint')} and {counted(bases, 'base')}, {counted(answers, 'answer')}, "
        f"logs in {logs}"
    )
    say(f"judge {judging_estimate(planned)}")
    if dry_run:
        for job in planned:
            say("\n".join(f"  em/{subject.name}" for subject in job.subjects))
        return
    with sweep_progress(planned) as report:
        evaluate(planned, jobs, report)
    say(f"Next: em report {logs}   or look at the transcripts: inspect view --log-dir {logs}")
