"""`em plugin`: what packages give to this project, what is wrong with it, and a skeleton for one of your own."""

from pathlib import Path

import click

from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say


@click.group()
def plugin() -> None:
    """List what packages give, or begin a package of your own."""


@plugin.command("list")
def list_() -> None:
    """List everything that packages give, and what is wrong with it."""
    from em_tasks import conditions
    from em_tasks.plugins.entry_points import CONDITIONS, FIGURES, OURS, QUESTIONS, RUBRICS, TABLES, functions, plugins
    from em_tasks.questions import plugin_notes as question_notes
    from em_tasks.scorers.judging.rubric import plugin_notes as rubric_notes

    notes = [*question_notes(), *conditions.plugin_notes(), *rubric_notes()]
    given = 0
    for group in (QUESTIONS, CONDITIONS, RUBRICS):
        for entry in plugins(group)[0]:
            given += 1
            say(f"{group}  {entry.name}  {entry.package}  {entry.value}")
    for group in (TABLES, FIGURES):
        entries, left_out = functions(group)
        notes += left_out
        for entry in entries:
            if not entry.package.startswith(f"{OURS.replace('_', '-')} "):
                given += 1
                say(f"{group}  {entry.name}  {entry.package}")
    for note in notes:
        say(f"note: {note}")
    if not given and not notes:
        say("No package gives anything. Begin one: em plugin new NAME")


@plugin.command()
@click.argument("name")
@click.option("--out", type=LocalPath(), default=Path(), help="Folder that receives it.")
def new(name: str, out: Path) -> None:
    """Write a package NAME with a question set, a condition, a rubric, a table, a figure and their tests."""
    from em_tasks.plugins.template.writing import write_plugin

    for path in write_plugin(name, out):
        say(str(path))
    say(f"Next: pip install --editable {out / name}   then: em plugin list")
