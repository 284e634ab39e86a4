"""Files and folders on the command line."""

import re
from pathlib import Path
from typing import Any

import click

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
