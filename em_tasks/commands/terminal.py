"""Lines for the terminal: what comes from data can neither move the cursor nor colour what follows."""

import click

from em_tasks.plugins.safe_names import printable


def say(text: object = "", *, err: bool = False) -> None:
    """Prints a line; control characters and the like in it are shown as what they are."""
    click.echo(printable(str(text)), err=err)


def counted(count: int, noun: str) -> str:
    """`1 base`, `2 bases`: a number with its noun, which takes an s."""
    return f"{count} {noun}{'s' * (count != 1)}"
