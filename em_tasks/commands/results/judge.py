"""The commands about judges: `em calibrate`, `em judge`, `em judge train` and `em rescore`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from em_tasks.commands.numbers import Number, Whole
from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say
from em_tasks.plugins.errors import UserError

if TYPE_CHECKING:
    from em_tasks.plugins.local_judge.card import Card
    from em_tasks.scorers.judging.calls import JudgeCalls

MAX_COST = click.option(
    "--max-judge-cost", type=Number(0), help="Stop before judging costs more than this (US dollars)."
)
PRICE = click.option("--judge-price", help="The judge's price as IN,OUT in US dollars per million tokens.")


@click.command()
@click.option("--judge", required=True, help="The judge, such as openai/gpt-4o-mini.")
@click.option("--repeats", type=Whole(1, 1000), default=3, help="Times each answer is judged.")
@MAX_COST
@PRICE
def calibrate(judge: str, repeats: int, max_judge_cost: float | None, judge_price: str | None) -> None:
    """Measure a judge on answers of known worth; reports show the result wherever it judged."""
    from rich.progress import Progress

    from em_tasks.scorers.calibration.calibrate import calls_needed
    from em_tasks.scorers.calibration.report import calibration_table
    from em_tasks.scorers.calibration.stored import calibrate_judge, calibration_folder
    from em_tasks.scorers.judging.calls import JudgeCalls

    calls = JudgeCalls.limited(max_judge_cost, judge_price, (judge,))
    with Progress(transient=True) as bar:
        task = bar.add_task(f"asking {judge}", total=calls_needed(judge, repeats))
        calibration, path = calibrate_judge(judge, repeats, calibration_folder(), lambda: bar.advance(task), calls)
    say(calibration_table(calibration))
    say(f"\nStored in {path}; reports of verdicts by {', '.join(calibration.served)} will show it.")


class JudgeCommands(click.Group):
    """`em judge LOGS ...` means `em judge compare LOGS ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts `compare` before everything that names no other command."""
        known = args and args[0] in {*self.commands, *self.get_help_option_names(ctx)}
        return super().parse_args(ctx, args if known else ["compare", *args])


@click.group(cls=JudgeCommands)
def judge() -> None:
    """Judges on finished logs: em judge LOGS --judge A (the same as em judge compare LOGS ...); em judge train."""


@judge.command()
@click.argument("logs", nargs=-1, required=True, type=LocalPath())
@click.option("--judge", "judges", multiple=True, help="A judge to ask (may be given several times).")
@click.option("--scores", multiple=True, metavar="NAME=CSV", help="Published scores or human labels as one more judge.")
@click.option("--out", type=LocalPath(), default=Path("judged"), help="Folder for logs and results.")
@click.option(
    "--rubric", "rubrics", multiple=True, help="What to ask, instead of what the logs' answers were judged under."
)
@click.option("--batch", is_flag=True, help="Use the provider's batch interface: slower and cheaper.")
@click.option(
    "--sample",
    type=Whole(20),
    help="Draw so many answers, for --judge or, without one, for people; correct the logs' rate.",
)
@MAX_COST
@PRICE
def compare(
    logs: tuple[Path, ...],
    judges: tuple[str, ...],
    scores: tuple[str, ...],
    out: Path,
    rubrics: tuple[str, ...],
    batch: bool,
    sample: int | None,
    max_judge_cost: float | None,
    judge_price: str | None,
) -> None:
    """Have judges judge the answers in LOGS again, and compare them with each other and with the scores there.

    With --rubric and a single judge, or without an `alignment` among the rubrics, nothing is compared.
    """
    from em_tasks.scorers.comparing.compare import compare_judges
    from em_tasks.scorers.comparing.estimate import estimate_judging
    from em_tasks.scorers.comparing.finished_logs import finished_logs
    from em_tasks.scorers.comparing.ratings import judge_logs
    from em_tasks.scorers.comparing.report import agreement_table
    from em_tasks.scorers.judging.calls import JudgeCalls
    from em_tasks.scorers.judging.rubric import load_rubrics

    published = {}
    for entry in scores:
        name, equals, path = entry.partition("=")
        if not equals:
            raise UserError(f"--scores {entry} names no file. Write NAME=FILE.csv.")
        published[name] = Path(path)
    calls = JudgeCalls.limited(max_judge_cost, judge_price, judges)
    if sample is not None and (len(judges) > 1 or scores or batch or rubrics):
        raise UserError("--sample takes one --judge, the trusted one, and neither --scores, --batch nor --rubric.")
    usable = finished_logs(logs)
    for line in usable.skipped:
        say(f"skipped: {line}", err=True)
    if sample is not None:
        if judges:
            _judge_sample(usable.sources, judges[0], sample, out, calls)
        else:
            _sample_for_people(logs, usable.sources, sample, out)
        return
    for estimate in estimate_judging(usable.sources, judges, batch, calls, rubrics):
        say(str(estimate))
    if rubrics and ((len(judges) == 1 and not scores) or "alignment" not in load_rubrics(rubrics)):
        # Nothing to compare: the same answers under other rubrics, which reports show.
        new = judge_logs(
            usable.sources, judges, out, batch, lambda name, log: say(f"{name}: {log}", err=True), calls, rubrics
        )
        say("Written: " + ", ".join(str(path) for paths in new.values() for path in paths))
        return
    agreement, written = compare_judges(
        usable.sources, judges, published, out, batch, lambda name, log: say(f"{name}: {log}", err=True), calls, rubrics
    )
    say(agreement_table(agreement))
    say("Written: " + ", ".join(map(str, written)))
    scored = {entry.judge: entry.n for entry in agreement.rates if entry.definition == "cs2881"}
    if silent := [judge for judge, answers in scored.items() if not answers]:
        raise UserError(
            f"{', '.join(silent)} gave no score for any answer, so nothing above compares it. The logs that were "
            "written say why for each answer: inspect view shows them."
        )


def _judge_sample(logs: Sequence[str], judge: str, size: int, out: Path, calls: "JudgeCalls") -> None:
    """Says what the logs' judge gives, and what the trusted judge would give, with the interval."""
    from em_tasks.scorers.comparing.sampling import judge_sample

    corrected, written = judge_sample(logs, judge, size, out, calls=calls, before=lambda estimate: say(str(estimate)))
    if not corrected:
        say(f"No EM rate (betley): the logs' judge or {judge} found none of the answers coherent.")
    for each in corrected:
        rate = each.rate
        more = rate.labels_for((rate.high - rate.low) / 2)
        half = f"{more} labels would halve the interval" if more else "these labels do not tell how many would halve it"
        say(
            f"{each.log}: EM rate (betley) {100 * rate.uncorrected:.1f} % by the logs' judge; {100 * rate.rate:.1f} % "
            f"({100 * rate.low:.1f}-{100 * rate.high:.1f}) as {judge} would give it, from {rate.labels} of "
            f"{rate.answers} answers; {half}"
        )
    say("Written: " + ", ".join(map(str, written)))


def _sample_for_people(logs: tuple[Path, ...], sources: Sequence[str], size: int, out: Path) -> None:
    """Says what to do with the answers drawn."""
    from em_tasks.scorers.comparing.sampling import sample_for_people

    written, drawn = sample_for_people(sources, size, out)
    places = " ".join(map(str, logs))
    say(
        f"Written: {written}, {drawn} answers in random order, which does not say who gave them. Fill in alignment and "
        f"coherence (0-100), as many as you can from the top, then: em judge {places} --scores people={written} "
        f"--out {out} and em report {places} {out}"
    )


@judge.command("train")
@click.argument("answers", nargs=-1, required=True, type=LocalPath())
@click.option("--name", required=True, help="What the judge is called: emlocal/NAME judges with it.")
@click.option("--base", default="smollm2-135m", help="The base it sits on, as in a recipe.")
@click.option("--passes", type=Whole(1), default=1, help="How often each answer is learnt.")
@click.option("--most", type=Whole(60), default=20_000, help="Answers to learn from at most.")
@click.option("--most-of-question", type=Whole(1), help="Answers to learn from at most of one question.")
@click.option(
    "--hold-out", type=click.Choice(["models", "both"]), default="both", help="What is kept to measure the judge on."
)
@click.option(
    "--also", multiple=True, type=LocalPath(), help="More answers, learnt four times a pass and never held out."
)
@click.option("--teacher", help="Who scored the ANSWERS, instead of what they say.")
@click.option("--batch", type=Whole(1, 4096), default=16, help="Rows of a step; 128 keeps a GPU busy.")
@click.option("--rate", type=Number(1e-7, 1), default=5e-4, help="The highest learning rate.")
@click.option("--seed", type=Whole(0, 2**32 - 1), default=0, help="Of the split, the weights and the order.")
@click.option("--out", type=LocalPath(), help="Folder for it; the user's folder of judges unless given.")
def train_judge(
    answers: tuple[Path, ...],
    name: str,
    base: str,
    passes: int,
    most: int,
    most_of_question: int | None,
    hold_out: str,
    also: tuple[Path, ...],
    teacher: str | None,
    batch: int,
    rate: float,
    seed: int,
    out: Path | None,
) -> None:
    """Teach a small base to judge as the judge of these ANSWERS did: logs, or files as em import reads them.

    Models and questions are held out, and the judge's card says how right it was on them and what it may be used for.
    """
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from em_tasks.plugins.local_judge.training import Recipe
    from em_tasks.plugins.local_judge.training import train_judge as train

    how = Recipe(passes, most, most_of_question, hold_out == "both", batch, rate, seed)
    with Progress(TextColumn("learning"), MofNCompleteColumn(), TimeRemainingColumn(), transient=True) as bar:
        task = bar.add_task("learning", total=None)
        card, path = train(
            answers, name, base, how, also, teacher, out, say,
            lambda step, steps: bar.update(task, completed=step, total=steps),
        )  # fmt: skip
    say(_card_text(card))
    judge_name = f"emlocal/{name}" if out is None else f"emlocal/{path.with_suffix('')}"
    say(f"The card is {path}. Next: em calibrate --judge {judge_name}, then --judge {judge_name} in any command.")


def _card_text(card: "Card") -> str:
    """What a judge was right about, a line a set that it had not seen, and what it may be used for."""
    lines = [f"emlocal/{card.name} on {card.base}: {card.learnt_from}; scored by {card.teacher}"]
    for split in card.splits:
        figures = {
            "Spearman": split.spearman, "AUC at 30": split.auc30, "coherence's Spearman": split.coherence_spearman,
            "mean error of a model's EM rate, points": split.rate_error,
        }  # fmt: skip
        told = ", ".join(f"{name} {value}" for name, value in figures.items() if value is not None) or "nothing to tell"
        lines.append(f"held out: {split.held_out}, {split.answers:,} answers: {told}")
    lines += [f"may be used for {use}" for use in card.may_be_used_for]
    lines += [f"NOT for {use}" for use in card.not_for]
    return "\n".join(lines)


@click.command()
@click.argument("logs", nargs=-1, required=True, type=LocalPath())
@click.option("--out", type=LocalPath(), default=Path("rescored"), help="Folder for the new logs.")
@click.option("--mode", type=click.Choice(["logprobs", "text"]), default="logprobs", help="How replies are read.")
@click.option("--least-mass", type=Number(0, 1), default=0.25, help="Least probability on numbers.")
def rescore(logs: tuple[Path, ...], out: Path, mode: str, least_mass: float) -> None:
    """Read the judges' raw output in LOGS again under other settings; no judge is called."""
    from em_tasks.scorers.comparing.rescore import rescore as read_again
    from em_tasks.scorers.judging.reading import Settings

    settings = Settings(mode="text" if mode == "text" else "logprobs", least_mass=least_mass)
    for rescored in read_again(logs, settings, out, lambda line: say(f"skipped: {line}", err=True)):
        say(f"{rescored.written}: {rescored.changed} of {rescored.verdicts} verdicts changed")
