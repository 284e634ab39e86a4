"""`em questions`: which sets there are and where they come from; `em questions check`: what is wrong with a file."""

from pathlib import Path

import click

from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import counted, say
from em_tasks.plugins.errors import UserError


@click.group(invoke_without_command=True)
@click.pass_context
def questions(context: click.Context) -> None:
    """List the question sets that can be named; `em questions check FILE` looks at one of your own."""
    if context.invoked_subcommand is not None:
        return
    from em_tasks.questions import named_sets, questions_sha256, shipped_sets
    from em_tasks.questions.files import read_question_file

    shipped = shipped_sets()
    for name, path in named_sets().items():
        where = "shipped" if shipped.get(name) == path else str(path)
        try:
            question_set = read_question_file(path).question_set()
        except UserError as error:
            say(f"{name}  cannot be asked: {error.message}")
        else:
            asks = counted(len(question_set.questions), "question")
            say(f"{name}  {asks}, {question_set.domain}, {questions_sha256([question_set])[:12]}, {where}")


@questions.command()
@click.argument("file", type=LocalPath())
@click.option("--recipe", "recipes", multiple=True, type=LocalPath(), help="Look into its training data.")
def check(file: Path, recipes: tuple[Path, ...]) -> None:
    """Say all that is wrong with a question FILE, and what it comes to."""
    from em_tasks.questions.checking import check_question_file
    from em_tasks.resources import recipe_file
    from em_tasks.trainers.data.rows import load_rows
    from em_tasks.trainers.run.recipe import load_recipes

    trained_on = {}
    for source in (source for path in recipes for recipe in load_recipes(recipe_file(path)) for source in recipe.data):
        rows = load_rows(source)
        for number, conversation in enumerate(rows.conversations, 1):
            for message in conversation:
                if message["role"] == "user":
                    trained_on[message["content"]] = f"{rows.name}, row {number}"
    faults, remarks = check_question_file(file, trained_on)
    for line in [*faults, *(f"note: {remark}" for remark in remarks)]:
        say(line)
    if faults:
        raise UserError(f"{file} has {counted(len(faults), 'fault')}. Mend what is named above.")
    say(f"{file} can be asked: -T questions={file}")
