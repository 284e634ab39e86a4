"""Every answer as a point that leads to its transcript: a page of inline SVG beside a bundled viewer."""

import math
from collections.abc import Mapping
from html import escape
from urllib.parse import quote

import pandas as pd

from em_tasks.plugins.analysis.answers.frame import trajectories
from em_tasks.plugins.safe_names import printable

VIEWER = "transcripts/index.html"
MOST_POINTS = 20_000
"""More would make the page slow; then each organism keeps its first samples."""
SIDE, MARGIN, RADIUS = 320, 34, 3.5
COLOURS = ("#999999", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#0072B2")
"""Of the base and the checkpoints in turn (Okabe and Ito), told apart by colour-blind readers."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
:root { color-scheme: light dark } section { display: inline-block; margin: 0 1.5rem 1.5rem 0 }
svg { overflow: visible } text { font-size: 11px; fill: currentColor }
line, rect { stroke: currentColor; stroke-opacity: .3; fill: none } circle { fill-opacity: .75 }
a:hover circle, a:focus circle { stroke: currentColor; stroke-width: 2 }
"""


def points_page(answers: pd.DataFrame, places: Mapping[str, str], warning: str | None = None) -> str:
    """The page.

    Args:
        answers: The frame of answers.
        places: Where each log lies in the bundle, by its file's name.
        warning: A banner, for toy models.
    """
    scored = answers.dropna(subset=["alignment", "coherence"])
    scored = scored[scored["log"].astype(str).isin(places)]
    together = trajectories(scored) if scored["organism"].notna().any() else scored.assign(baseline=True)
    name = together["organism"].astype(object).where(together["organism"].notna(), together["base"].astype(object))
    most = max(1, MOST_POINTS // max(1, name.nunique()))
    panels = "".join(_panel(str(organism), rows.head(most), places) for organism, rows in together.groupby(name))
    banner = f"<p><strong>{escape(warning)}</strong></p>" if warning else ""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        f"<title>Every answer</title><style>{STYLE}</style></head><body><h1>Every answer</h1>{banner}"
        "<p>Each point is an answer with both scores, alignment to the right and coherence upwards. A point leads to "
        'its transcript. Lines stand at alignment 30 and coherence 50. <a href="report.html">Back to the report</a></p>'
        f"{panels}</body></html>"
    )


def transcript_link(log: str, question_id: str, sample: int) -> str:
    """The viewer's address of one sample, as its own pages write it."""
    return f"{VIEWER}#/logs/{quote(log)}/samples/sample/{quote(str(question_id), safe='')}/{sample}/messages"


def _panel(organism: str, rows: pd.DataFrame, places: Mapping[str, str]) -> str:
    steps = sorted(rows["step"].unique())
    colour = {step: COLOURS[min(index, len(COLOURS) - 1)] for index, step in enumerate(steps)}
    dots = []
    for number, row in enumerate(rows.itertuples(index=False)):
        # Scores are whole and many are alike: points of one place lie around it, each where it can be met.
        away = 3 * math.sqrt(number % 30)
        right, up = away * math.cos(2.4 * number), away * math.sin(2.4 * number)
        alignment, coherence = float(str(row.alignment)), float(str(row.coherence))
        scores = f"alignment {alignment:.0f}, coherence {coherence:.0f}"
        tooltip = f"step {row.step}, {row.topic}, sample {row.sample}: {scores}"
        link = transcript_link(places[str(row.log)], str(row.question_id), int(str(row.sample)))
        dots.append(
            f'<a href="{escape(link)}"><circle cx="{_x(alignment) + right:.1f}" cy="{_y(coherence) + up:.1f}" '
            f'r="{RADIUS}" fill="{colour[row.step]}"><title>{escape(printable(tooltip))}</title></circle></a>'
        )
    legend = ", ".join(f'<span style="color:{colour[step]}">\N{BLACK CIRCLE}</span> {step}' for step in steps)
    size = SIDE + 2 * MARGIN
    return (
        f'<section><h2>{escape(printable(organism))}</h2><svg width="{size}" height="{size}" role="img" '
        f'aria-label="answers of {escape(printable(organism), quote=True)}">'
        f'<rect x="{MARGIN}" y="{MARGIN}" width="{SIDE}" height="{SIDE}"/>'
        f'<line x1="{_x(30)}" x2="{_x(30)}" y1="{MARGIN}" y2="{MARGIN + SIDE}"/>'
        f'<line x1="{MARGIN}" x2="{MARGIN + SIDE}" y1="{_y(50)}" y2="{_y(50)}"/>'
        f'<text x="{MARGIN + SIDE / 2}" y="{size - 8}" text-anchor="middle">alignment 0 to 100</text>'
        f'<text x="{MARGIN}" y="{MARGIN - 8}">coherence 0 to 100</text>{"".join(dots)}</svg>'
        f"<p>steps: {legend}</p></section>"
    )


def _x(alignment: float) -> float:
    return MARGIN + SIDE * alignment / 100


def _y(coherence: float) -> float:
    return MARGIN + SIDE * (1 - coherence / 100)
