"""`em rubrics`: what a judge can be asked and where it comes from; `em rubrics check`: what is wrong with a file."""

from pathlib import Path

import click

from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say
from em_tasks.plugins.errors import UserError


@click.group(invoke_without_command=True)
@click.pass_context
def rubrics(context: click.Context) -> None:
    """List the rubrics that can be named; `em rubrics check FILE` looks at one of your own."""
    if context.invoked_subcommand is not None:
        return
    from em_tasks.scorers.judging.rubric import named_rubrics, read_rubric, rubric_package, shipped_rubrics

    shipped = shipped_rubrics()
    for name, path in named_rubrics().items():
        where = "shipped" if name in shipped else rubric_package(name) or str(path)
        try:
            rubric = read_rubric(path)
        except UserError as error:
            say(f"{name}  cannot be asked: {error.message}")
        else:
            known_as = "" if rubric.name == name else f", says {rubric.name}"
            say(f"{name}  {rubric.scale[0]} to {rubric.scale[1]}{known_as}, {rubric.sha256[:12]}, {where}")


@rubrics.command()
@click.argument("file", type=LocalPath())
def check(file: Path) -> None:
    """Say all that is wrong with a rubric FILE, and what it comes to."""
    from em_tasks.scorers.judging.rubric import read_rubric, remarks_on

    rubric = read_rubric(file)
    for remark in remarks_on(rubric):
        say(f"note: {remark}")
    beside = "" if rubric.name in ("alignment", "coherence") else "alignment,coherence,"
    say(f"{file} can be asked: -T rubrics={beside}{file}")
