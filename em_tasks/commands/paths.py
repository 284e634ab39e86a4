"""Files and folders on the command line."""

import re
from pathlib import Path
from typing import Any

import click

from em_tasks.plugins.errors import UserError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


class LocalPath(click.Path):
    """A path on this machine. A URL would be taken for one too, and what was written be lost with the machine."""

    def __init__(self, *, dir_okay: bool = True) -> None:
        """Takes a file or, unless told otherwise, a folder, which need not be there."""
        super().__init__(path_type=Path, dir_okay=dir_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; ends the command where it is a URL or nothing."""
        if isinstance(value, str) and not value.strip():
            self.fail("An empty name is no path.", param, ctx)
        if isinstance(value, str) and URL.match(value):
            self.fail(
                f"{value!r} is a URL, and this takes a path on this machine. `em report` reads logs behind a URL, and "
                "`em grid --store URL` keeps what is finished there.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


def refuse_runs(place: Path, command: str) -> None:
    """Says what to give in place of a folder of training runs without an answer, whose files answer nothing.

    Args:
        place: What was given.
        command: Which command it was given to, by its name without `em`.

    Raises:
        UserError: It is such a folder.
    """
    from em_tasks.plugins.analysis.importing import format_of
    from em_tasks.trainers.run.checkpoints import organisms_in

    organisms = organisms_in(place) if place.is_dir() else []
    # Runs have JSON files of their own, and nothing else that answers come in.
    if not organisms or any(
        file.suffix == ".eval" or format_of(file) not in (None, ".json") for file in place.rglob("*")
    ):
        return
    runs = place if (place / organisms[0]).is_dir() else place.resolve().parent
    more = f" and {len(organisms) - 3} more" if len(organisms) > 3 else ""
    raise UserError(
        f"{place} holds trained organisms ({', '.join(organisms[:3])}{more}) and no answers, which em {command} needs: "
        f"have them asked first with em sweep {runs} --logs LOGS, and then em report LOGS."
    )
