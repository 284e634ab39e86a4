"""`em sweep`: every checkpoint and base asked and judged, with what that comes to said first."""

from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from em_tasks.commands.numbers import Number, Whole
from em_tasks.commands.paths import LocalPath
from em_tasks.commands.results.judge import MAX_COST, PRICE
from em_tasks.commands.terminal import counted, say
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.base_names import Precision


@click.command()
@click.argument("runs", type=LocalPath())
@click.option("--logs", type=LocalPath(), default=Path("logs"), help="Folder that receives the logs.")
@click.option("--organism", "organisms", multiple=True, help="Only this organism (may be given several times).")
@click.option("--questions", multiple=True, help="Question set or YAML file, instead of each organism's own domain.")
@click.option("--domain", help="What question files probe: a training domain, or general.")
@click.option("--condition", help="What is put around each question: a shipped condition, or a YAML file.")
@click.option("--rubric", "rubrics", multiple=True, help="What the judge is asked, instead of alignment and coherence.")
@click.option("--task", "tasks", multiple=True, help="Another Inspect task instead of em, as inspect eval takes it.")
@click.option("--limit", type=Whole(1, 10**6), help="With --task: samples of each task.")
@click.option("--samples", type=Whole(1, 10**6), help="Answers to each question.")
@click.option(
    "--until-width",
    type=Number(0, 100, min_open=True),
    help="Ask on until each EM rate's interval (confidence sequence, outside the domain) is so many points wide.",
)
@click.option("--most-samples", type=Whole(1, 10**6), help="With --until-width: answers to each question at most.")
@click.option("--max-tokens", type=Whole(1, 10**6), default=600, help="Tokens an answer is cut after.")
@click.option("--judge", help="The judge, such as openai/gpt-4o-mini.")
@click.option("--grader", hidden=True, help="What --judge was called before.")
@click.option("--no-score", is_flag=True, help="Have the answers judged later: by the same command without this.")
@click.option("--base", help="Evaluate on this base, knowingly, instead of the one that was trained on.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Evaluate at this precision, knowingly.")
@click.option("--engine", default="auto", help="What answers: auto, stacked, transformers or vllm.")
@click.option("--exact", is_flag=True, help="Answers must not depend on what shares their batch, at a cost.")
@click.option("-j", "--jobs", type=Whole(1), help="Processes at a time; as many as are worth it and fit, unless given.")
@click.option("--no-mps", is_flag=True, help="Have processes take turns on a GPU, without NVIDIA's server.")
@click.option("--follow", is_flag=True, help="Go on with checkpoints that land meanwhile, until training is finished.")
@MAX_COST
@PRICE
@click.option("--dry-run", is_flag=True, help="Say what would be evaluated, and stop.")
def sweep(
    runs: Path,
    logs: Path,
    organisms: tuple[str, ...],
    tasks: tuple[str, ...],
    limit: int | None,
    samples: int | None,
    judge: str | None,
    grader: str | None,
    no_score: bool,
    until_width: float | None,
    most_samples: int | None,
    engine: str,
    jobs: int | None,
    no_mps: bool,
    follow: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Evaluate every checkpoint and base under RUNS; what is done already is skipped."""
    from em_tasks.plugins.checkpoint_model.engines.choosing import parse_engine
    from em_tasks.progress import sweep_progress
    from em_tasks.scorers.judging.grader import unusable_judges
    from em_tasks.sweep.estimate import judging_estimate
    from em_tasks.sweep.failures import left_out
    from em_tasks.sweep.logs import outstanding, read_logs
    from em_tasks.sweep.plan import DEFAULT_SAMPLES, Planner, SweepOptions, checkpoint_count
    from em_tasks.sweep.run import sweep as evaluate
    from em_tasks.trainers.run.checkpoints import foreign_manifests
    from em_tasks.until_width import MOST_SAMPLES, check_width

    _refuse_what_only_em_takes(click.get_current_context(), tasks)
    if no_score and options["max_judge_cost"] is not None:
        raise UserError("--no-score asks no judge, so --max-judge-cost caps nothing. Leave one of the two out.")
    if until_width is not None and no_score:
        raise UserError("--until-width looks at the EM rate while answers come: it does not go with --no-score.")
    if most_samples is not None and until_width is None:
        raise UserError("--most-samples goes with --until-width; without it --samples says how many answers there are.")
    samples = samples or (1 if tasks else DEFAULT_SAMPLES)
    most_samples = most_samples or MOST_SAMPLES
    check_width(until_width, samples, most_samples)
    sweep_options = SweepOptions(
        samples=samples,
        until_width=until_width,
        most_samples=None if until_width is None else most_samples,
        engine=parse_engine(engine),
        score=not no_score and not tasks,
        grader=judge or grader,
        **options,
    )
    planner = Planner(runs, logs, sweep_options, organisms)
    if tasks:
        _other_tasks(planner, tasks, limit, jobs, dry_run)
        return
    if limit is not None:
        raise UserError("--limit is for other tasks: give it with --task, or say --samples.")
    planned, there = planner.plan(check_judges=not dry_run), read_logs(logs)
    bases, checkpoints, answers = checkpoint_count(planned)
    left = checkpoint_count(outstanding(planned, there))
    total = f"{counted(checkpoints, 'checkpoint')} and {counted(bases, 'base')}, {counted(answers, 'answer')}"
    say(f"{total}, logs in {logs}")
    if left[2] < answers:
        say(f"to do: {counted(left[1], 'checkpoint')} and {counted(left[0], 'base')}, {counted(left[2], 'answer')}")
    say(f"judge {judging_estimate(planned, there)}")
    if until_width is not None:
        times = f"at most {most_samples / samples:g} times as many"
        say(
            f"that is up to the first look, at {samples} answers to each question; then on until each EM rate outside "
            f"the domain is known to {until_width:g} points, {times}"
        )
    judges = sorted({job.judge for job in planned}) if dry_run and sweep_options.score else []
    left_out_now = left_out(planner)  # Before another look.
    for note in (*left_out_now, *planner.domains_not_asked(), *foreign_manifests(runs), *unusable_judges(judges)):
        say(f"note: {note}", err=True)
    for path, reason in there.unreadable.items():
        say(f"note: {path} cannot be read as a log and is passed over ({reason})", err=True)
    if dry_run:
        show_plan(planned, there)
        return
    with sweep_progress() as progress:
        evaluate(planner, progress.report, jobs=jobs, follow=follow, mps=not no_mps, planned=progress.begin)
    after = "the same command without --no-score, which judges them" if no_score else f"em report {logs}"
    say(f"Next: {after}   or look at the transcripts: inspect view --log-dir {logs}")


TASK_PARAMETERS = [
    "runs",
    "logs",
    "organisms",
    "tasks",
    "limit",
    "base",
    "precision",
    "engine",
    "exact",
    "jobs",
    "dry_run",
]
"""What means something for other tasks too; the rest is about the questions and judges of the `em` task."""


def _other_tasks(planner: Any, tasks: tuple[str, ...], limit: int | None, jobs: int | None, dry_run: bool) -> None:
    """Evaluates other tasks, or says which of them are done on what."""
    from em_tasks.sweep.other_tasks import plan_tasks, sweep_tasks

    if not dry_run:
        sweep_tasks(planner, tasks, say, limit=limit, jobs=jobs)
        say(f"Next: em report {planner.logs}, which shows them beside the rates as side effects")
        return
    for each in plan_tasks(planner, tasks, limit):
        models = [f"  em/{name}  (done)" for name in each.done] + [f"  em/{name}" for name in each.outstanding]
        say(f"{each.task} over {each.base.removesuffix('@base')}: {len(each.done)} of {len(models)} models done")
        for model in models:
            say(model)


def _refuse_what_only_em_takes(context: click.Context, tasks: tuple[str, ...]) -> None:
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in TASK_PARAMETERS
        and context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    ]
    if tasks and given:
        raise UserError(
            f"{', '.join(given)}: with --task this does nothing: another task brings its own questions, sampling "
            "and scores. Leave it out, or leave --task out."
        )


def show_plan(planned: Any, there: Any) -> None:
    """Prints what a plan takes, base by base, and its models."""
    from datetime import timedelta

    from em_tasks.sweep.estimate import estimate_sweep

    for job, each in zip(planned, estimate_sweep(planned, there), strict=True):
        most = "" if each.measured else "at most "
        time = "" if each.seconds is None else f", {timedelta(seconds=round(each.seconds))} at the rate measured here"
        say(
            f"over {each.base.removesuffix('@base')}: {each.done} of {counted(each.evaluations, 'evaluation')} done; "
            f"{each.answers} answers to come, {most}{each.tokens} tokens{time}"
        )
        for subject in job.subjects:
            entry = there.of(job, subject)
            say(f"  em/{subject.name}{'' if entry is None else _how_far(*entry)}")


def _how_far(path: Path, log: Any) -> str:
    from em_tasks.sweep.logs import is_fully_judged, is_judged

    if not is_judged(log):
        return "  (answered, not judged)"
    return "  (done)" if is_fully_judged(path, log) else "  (answered, its judge failed at some)"
