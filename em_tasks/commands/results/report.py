"""`em report`: tables, figures and one page of what the logs say."""

from pathlib import Path

import click

from em_tasks.commands.numbers import Number
from em_tasks.commands.terminal import counted, say
from em_tasks.plugins.errors import UserError


@click.command()
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("report"), help="Folder for the report.")
@click.option(
    "--definition", "definitions", multiple=True, help="EM definition to lead with, or such as '<40+coherent'."
)
@click.option(
    "--smallest-effect",
    type=Number(0, 100, min_open=True),
    help="Smallest difference of interest, in points.",
)
@click.option("--claims", type=click.Path(path_type=Path), help="Claims file to hold against the data.")
@click.option("--study", type=click.Path(path_type=Path), help="Study file that names beforehand what is reported.")
@click.option("--example", "examples", multiple=True, help="Id of a question whose answers are shown.")
def report(
    logs: tuple[Path, ...],
    out: Path,
    definitions: tuple[str, ...],
    smallest_effect: float | None,
    claims: Path | None,
    study: Path | None,
    examples: tuple[str, ...],
) -> None:
    """Write EM tables, figures and a report (Markdown and HTML) from LOGS or judged CSV files."""
    from rich.console import Console

    from em_tasks.plugins.analysis.report.report import write_report
    from em_tasks.scorers.calibration.stored import known_calibration

    effect = None if smallest_effect is None else smallest_effect / 100
    written = write_report(logs, out, definitions, examples, known_calibration(), effect, claims, study)
    Console().print(written.table())
    for note in written.notes:
        say(f"note: {note}")
    made = f"{counted(len(written.paths), 'file')} and {counted(len(written.findings), 'finding')} in {out}"
    say(f"{made}; open {out / 'report.html'}")
    if written.rates["mean_alignment"].isna().all():
        raise UserError(
            f"The report in {out} shows no rate: no judge gave an alignment score for any answer. Have the answers "
            "judged by another judge: em judge LOGS --judge PROVIDER/MODEL"
        )
