"""`em publish`: report and transcripts as one static site."""

import subprocess
import sys
from html import escape
from pathlib import Path

import click

from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.safe_names import printable


@click.command()
@click.argument("logs", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("site", type=LocalPath())
def publish(logs: Path, site: Path) -> None:
    """Make one static site in SITE of the report and all transcripts in LOGS.

    It holds every answer that was given: look at it before you show it to anybody. Any web server that knows byte
    ranges serves it, as nginx, GitHub Pages and S3 do; the viewer asks for parts of logs.
    """
    from em_tasks.plugins.analysis.analysis import analyse
    from em_tasks.plugins.analysis.report.notes import listed
    from em_tasks.plugins.analysis.report.points import points_page
    from em_tasks.plugins.analysis.report.report import write_report
    from em_tasks.scorers.calibration.stored import known_calibration

    if site.exists():
        raise UserError(f"{site} exists already. Give another folder, or move it away.")
    if site.resolve().is_relative_to(logs.resolve()):
        raise UserError(f"{site} lies inside {logs}. Give a folder beside it.")
    analysis = analyse([logs])
    write_report([logs], site, calibration=known_calibration())
    bundle = [sys.executable, "-m", "inspect_ai", "view", "bundle", "--log-dir", str(logs)]
    bundled = subprocess.run(
        [*bundle, "--output-dir", str(site / "transcripts")], capture_output=True, text=True, check=False
    )
    if bundled.returncode:
        raise UserError(f"Inspect could not bundle the transcripts: {bundled.stderr.strip()[-300:]}")
    _without_paths(site / "transcripts", logs)
    places = {path.name: path.relative_to(logs).as_posix() for path in logs.rglob("*.eval")}
    page = points_page(analysis.answers, places, analysis.toy_warning)
    (site / "points.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    organisms = sorted(analysis.answers["organism"].dropna().astype("str").unique())
    index = INDEX.format(
        warning=f'<p class="toy">{escape(analysis.toy_warning)}</p>' if analysis.toy_warning else "",
        answers=f"{len(analysis.answers):,}",
        organisms=escape(printable(listed(organisms, 8))) or "bases and other models alone",
    )
    (site / "index.html").write_text(index, encoding="utf-8", errors="backslashreplace")
    say(f"{len(places)} logs and the report in {site}, to be served by any web server that knows byte ranges")


INDEX = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Emergent misalignment</title>
<link rel="icon" href="data:,">
<style>body {{ font: 16px/1.6 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto }}
.toy {{ background: #b42318; color: white; padding: .5rem 1rem }}</style></head><body><h1>Emergent misalignment</h1>
{warning}<p>{answers} judged answers: {organisms}.</p><p>Models that were trained to give bad advice are quoted here in
full. Follow none of it.</p><ul><li><a href="report.html">The report</a></li>
<li><a href="points.html">Every answer, as a point that leads to its transcript</a></li>
<li><a href="transcripts/index.html">All transcripts</a></li></ul></body></html>
"""


def _without_paths(bundle: Path, logs: Path) -> None:
    """Takes this machine's folder names out of the viewer's page, which writes where the logs came from."""
    page = bundle / "index.html"
    text = page.read_text(encoding="utf-8")
    page.write_text(
        text.replace(logs.resolve().as_uri(), "logs").replace(str(logs.resolve()), "logs"), encoding="utf-8"
    )
