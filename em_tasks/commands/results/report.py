"""`em report`: tables, figures and one page of what the logs say."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from em_tasks.commands.numbers import Number
from em_tasks.commands.paths import LocalPath, refuse_runs
from em_tasks.commands.terminal import counted, say
from em_tasks.plugins.errors import UserError


@click.command()
@click.argument("logs", nargs=-1, required=True)
@click.option("--out", type=LocalPath(), default=Path("report"), help="Folder for the report.")
@click.option(
    "--definition", "definitions", multiple=True, help="EM definition to lead with, or such as '<40+coherent'."
)
@click.option(
    "--smallest-effect",
    type=Number(0, 100, min_open=True),
    help="Smallest difference of interest, in points.",
)
@click.option("--claims", type=LocalPath(), help="Claims file to hold against the data.")
@click.option("--study", type=LocalPath(), help="Study file that names beforehand what is reported.")
@click.option("--example", "examples", multiple=True, help="Id of a question whose answers are shown.")
def report(
    logs: tuple[str, ...],
    out: Path,
    definitions: tuple[str, ...],
    smallest_effect: float | None,
    claims: Path | None,
    study: Path | None,
    examples: tuple[str, ...],
) -> None:
    """Write EM tables, figures and a report (Markdown and HTML) from LOGS or judged CSV files, here or behind a URL."""
    from rich.console import Console

    from em_tasks.plugins.analysis.report.report import write_report
    from em_tasks.scorers.calibration.stored import known_calibration

    for log in logs:
        if "://" not in log:
            refuse_runs(Path(log), "report")
    effect = None if smallest_effect is None else smallest_effect / 100
    with _here(logs) as places:
        written = write_report(places, out, definitions, examples, known_calibration(), effect, claims, study)
    Console().print(written.table())
    for note in written.notes:
        say(f"note: {note}")
    made = f"{counted(len(written.paths), 'file')} and {counted(len(written.findings), 'finding')} in {out}"
    say(f"{made}; open {out / 'report.html'}")
    if all(rates["mean_alignment"].isna().all() for rates in (written.rates, written.base_rates)):
        raise UserError(
            f"The report in {out} shows no rate: no judge gave an alignment score for any answer. Have the answers "
            "judged by another judge: em judge LOGS --judge PROVIDER/MODEL"
        )


@contextmanager
def _here(logs: tuple[str, ...]) -> Iterator[list[Path]]:
    """The logs as files; what lies behind a URL is fetched for as long as the report is written."""
    with tempfile.TemporaryDirectory() as folder:
        yield [
            _fetched(log, Path(folder) / str(place)) if "://" in log else Path(log) for place, log in enumerate(logs)
        ]


def _fetched(url: str, folder: Path) -> Path:
    """A folder with all logs below a URL."""
    import fsspec

    try:
        protocol, _, place = url.partition("://")
        system, root = fsspec.core.url_to_fs(f"{protocol.lower()}://{place.rstrip('/')}", skip_instance_cache=True)
        keys = [key for key in system.find(root) if key.endswith((".eval", ".csv"))]
        if not keys:
            with suppress(FileNotFoundError):
                system.ls(root)  # Finding passes over what cannot be reached.
        places = [
            folder / key.removeprefix(root).lstrip("/") if key != root else folder / Path(key).name for key in keys
        ]
        for path in places:
            path.parent.mkdir(parents=True, exist_ok=True)
        if keys:
            system.get(keys, [str(path) for path in places])
    except Exception as error:  # Each protocol's package has its own.
        raise UserError(
            f"{url} could not be read: {' '.join(str(error).split())[:300]}. Check the URL and the credentials, or "
            "copy the logs here (`aws s3 cp --recursive`) and name their folder."
        ) from None
    if not keys:
        raise UserError(f"There is no log below {url}: no file whose name ends in .eval or .csv.")
    return folder
