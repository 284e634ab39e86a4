"""`em import`: other people's judged answers as logs of ours."""

from pathlib import Path

import click

from em_tasks.commands.terminal import counted, say


@click.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("imported"), help="Folder for the logs.")
def import_(source: Path, out: Path) -> None:
    """Turn judged answers of another experiment (CSV files in SOURCE) into logs that `em report` reads."""
    from em_tasks.plugins.analysis.importing.logs import import_judged

    written = import_judged(source, out)
    say(f"{counted(len(written), 'log')} in {out}. Next: em report {out}")
