"""`em scan`: which answers refuse, hold code, repeat themselves or leak the training domain, in Inspect Scout."""

from importlib.util import find_spec
from pathlib import Path

import click

from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say
from em_tasks.plugins.errors import UserError


@click.command()
@click.argument("logs", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=LocalPath(), default=Path("scans"), help="Folder for the scan's results.")
def scan(logs: Path, out: Path) -> None:
    """Mark the answers in LOGS that refuse, hold code, repeat themselves or leak the training domain.

    `em report` counts the same marks. Here each marked answer can be read in Scout's viewer: scout view.
    """
    if find_spec("inspect_scout") is None:
        raise UserError("Scanning needs Inspect Scout. Install it: pip install 'em-tasks[scout]'.")
    from inspect_scout import scan as scan_transcripts
    from inspect_scout import scan_results_df, transcripts_from

    from em_tasks.plugins.scanners import em as scanners

    ours = [scanners.refusal(), scanners.code(), scanners.repetition(), scanners.leak()]
    status = scan_transcripts(ours, transcripts_from(str(logs)), scans=str(out), display="plain", max_processes=1)
    results = scan_results_df(status.location).scanners
    for name, marked in results.items():
        say(f"{name:<12}{int(marked['value'].astype(bool).sum())} of {len(marked)} answers")
    if not status.complete:
        raise UserError(f"Not every answer could be scanned; {status.location} holds what was.")
    say(f"Next: scout view --scans {out}")
