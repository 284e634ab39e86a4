"""`em plan`: what a design could show, before anything is spent."""

import click

from em_tasks.commands.numbers import Number, Whole
from em_tasks.commands.terminal import say

QUESTIONS = (8, 20, 48)
SAMPLES = (1, 5, 10, 20, 50)


@click.command()
@click.option("--effect", type=Number(0, 99, min_open=True), default=10.0, help="Difference from the base, in points.")
@click.option("--base-rate", type=Number(0.1, 99), default=1.0, help="The base's rate, in percent.")
@click.option(
    "--questions",
    "questions",
    type=Whole(2, 1000),
    multiple=True,
    help="Questions outside the domain (repeatable).",
)
@click.option("--samples", type=Whole(1, 1000), multiple=True, help="Answers to each question (repeatable).")
@click.option("--organisms", type=Whole(1, 1000), default=6, help="Organisms whose last checkpoints are compared.")
@click.option("--definition", default="betley", help="EM definition that the study file names.")
@click.option("--runs", type=Whole(50, 100_000), default=300, help="Made experiments a design.")
def plan(
    effect: float,
    base_rate: float,
    questions: tuple[int, ...],
    samples: tuple[int, ...],
    organisms: int,
    definition: str,
    runs: int,
) -> None:
    """Say how often a design would show that an organism differs from its base by EFFECT points.

    Made experiments, on questions as unlike each other as real ones, are put to the report's own tests.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from em_tasks.plugins.analysis.statistics.design_power import power_of
    from em_tasks.plugins.analysis.study import study_text
    from em_tasks.plugins.errors import UserError

    if effect < 1:
        raise UserError(
            f"--effect is in points, so {effect:g} is less than a point of a hundred. Write {100 * effect:g} for "
            f"{100 * effect:g} %; less than 1 point is not planned for."
        )
    if base_rate + effect >= 100:
        raise UserError(f"A base rate of {base_rate:g} % and {effect:g} points more are no rate. Take less of either.")
    design = (
        f"designs: {' or '.join(map(str, questions or QUESTIONS))} questions outside the domain, "
        f"{' or '.join(map(str, samples or SAMPLES))} answers to each"
    )
    registered = study_text(definition, effect, organisms, design)
    title = f"Power (%) for {effect:g} points over a base of {base_rate:g} %, corrected over {organisms} organisms"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for head in ("questions", "answers to each", "answers a checkpoint", "these questions", "such questions", "width"):
        table.add_column(head, justify="right")
    for number in questions or QUESTIONS:
        for each in samples or SAMPLES:
            power = power_of(base_rate / 100, effect / 100, number, each, organisms, runs)
            table.add_row(
                str(number), str(each), str(number * each), f"{100 * power.these:.0f}", f"{100 * power.such:.0f}",
                f"{100 * power.width:.0f}",
            )  # fmt: skip
    Console().print(table)
    say(
        f"{runs} made experiments a design; width: of the 95 % interval on such questions, in points. The questions "
        "differ as the eight first-plot ones do, and from checkpoint to checkpoint besides."
    )
    say("A study file for it; keep it in study.yaml, publish its hash, and give it to em report --study:")
    for line in registered.splitlines():
        say(line)
