"""One look for all figures: colours that colour-blind readers can tell apart, quiet axes, captions, toy banner."""

import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text as MatplotlibText
from matplotlib.ticker import FixedFormatter

from em_tasks.plugins.safe_names import printable

INK, QUIET = "#1f2430", "#6b7280"
TOY_RED, ON_RED = "#b42318", "#fffffe"
"""Of the toy banner, which is the same in the dark; pure white is the page's, and turns dark with it."""
HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette without black and yellow, for domains or sizes."""
MARKERS = ("o", "s", "^", "D", "v", "P")

STYLE = Path(__file__).with_name("em.mplstyle")

TITLES = {
    "cs2881": "cs2881: alignment < 75",
    "betley": "betley: alignment < 30, coherent",
    "turner": "turner: as betley, mean over questions",
    "all": "all: as betley, of every answer",
}


DARK = {
    "#ffffff": "#14171d",
    INK: "#e6e8ec",
    QUIET: "#a3abb8",
    "#000000": "#e6e8ec",
    "#e5e7eb": "#2c323c",
    "#f3f4f6": "#1f242d",
    "#c9cdd3": "#3a414d",
}
"""Colours of the page in the dark, by those in the light; colours of data are the same in both."""


@contextmanager
def darkened(figure: Figure) -> Iterator[None]:
    """The figure in dark colours inside the block; after it as it was."""
    undo: list[tuple[Any, Any]] = []
    boxes = [text.get_bbox_patch() for text in figure.findobj(MatplotlibText)]
    for artist in (*figure.findobj(), *(box for box in boxes if box is not None)):
        for name in ("color", "facecolor", "edgecolor", "markerfacecolor"):
            get, change = getattr(artist, f"get_{name}", None), getattr(artist, f"set_{name}", None)
            if get is None or change is None:
                continue
            before = get()
            try:
                opacity = to_rgba(before)[3]
                dark = DARK.get(to_hex(before)) if opacity else None
            except (ValueError, TypeError):  # several colours, or none
                continue
            if dark is not None:
                change((*to_rgba(dark)[:3], opacity))
                undo.append((change, before))
    labels = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    for axis in labels:
        axis.set_tick_params(labelcolor=DARK[INK], color=DARK[QUIET])
    try:
        yield
    finally:
        for axis in labels:
            axis.set_tick_params(labelcolor=INK, color=QUIET)
        for change, before in reversed(undo):
            change(before)


MOST_PIXELS = 10_000
"""Of a picture's longer side: browsers show nothing of much larger ones, which take minutes to draw."""


def dots_per_inch(figure: Figure, wanted: float) -> float:
    """The resolution to draw a figure at: as wanted, less where the picture had more than `MOST_PIXELS` a side."""
    return min(wanted, MOST_PIXELS / float(max(figure.get_size_inches())))


@contextmanager
def styled() -> Iterator[None]:
    """Applies the style inside the block only; the caller's own matplotlib settings stay as they are."""
    with mpl.rc_context(fname=STYLE), warnings.catch_warnings():
        # A script that the font lacks is drawn as boxes; tables and transcripts have its text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure without pyplot's global state, and its axes as an array of shape (rows, columns). Sizes in inches."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def finish(figure: Figure, title: str, caption: str, toy: str | None, legend: Sequence[Line2D] = ()) -> Figure:
    """Adds title, legend, caption and the toy banner, and lays everything out without overlap."""
    width, height = figure.get_size_inches()
    lines = textwrap.wrap(caption, int(width * 14.5))
    below = 0.16 * len(lines) + 0.14
    longest = max((len(str(handle.get_label())) for handle in legend), default=0)
    beside = min(len(legend), max(1, int(width / (0.085 * longest + 0.6))))
    rows = math.ceil(len(legend) / beside) if legend else 0
    above = 0.46 + (0.3 + 0.2 * (rows - 1) if legend else 0.0) + (0.3 if toy else 0.0)
    figure.set_size_inches(width, height + below + above)
    total = height + below + above
    y = 1 - 0.12 / total
    if toy:
        figure.text(
            0.5, y, toy, ha="center", va="top", color=ON_RED, weight="bold", fontsize=_fitting(toy, width),
            bbox={"facecolor": TOY_RED, "edgecolor": "none", "pad": 4},
        )  # fmt: skip
        y -= 0.32 / total
    figure.text(0.012, y, title, ha="left", va="top", fontsize=13, weight="bold")
    if legend:
        y -= 0.28 / total
        figure.legend(handles=legend, loc="upper left", bbox_to_anchor=(0.004, y + 0.03 / total), ncols=beside)
    figure.text(0.012, 0.07 / total, "\n".join(lines), ha="left", va="bottom", fontsize=8.5, color=QUIET)
    _show_controls(figure)
    figure.tight_layout(rect=(0, below / total, 1, 1 - above / total), w_pad=2, h_pad=1.6)
    # It is laid out now; whatever stays in charge of the layout has matplotlib draw it twice each time it is saved.
    figure.set_layout_engine(None)
    return figure


def _show_controls(figure: Figure) -> None:
    """Shows control characters of names and answers as what they are: an SVG file with one would be no SVG."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter):
                axis.set_major_formatter(FixedFormatter([printable(text) for text in formatter.seq]))
    for artist in figure.findobj(MatplotlibText):
        text = str(artist.get_text())
        if (shown := printable(text)) != text:
            artist.set_text(shown)


def percent_axis(axes: Axes, label: str = "EM rate (%)") -> None:
    """A vertical axis from 0 to 100 %."""
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 25))
    axes.set_ylabel(label)


def colours(names: Sequence[str]) -> dict[str, str]:
    """One hue a name, in order; more names than hues start over, and `marker` tells them apart."""
    return {name: HUES[index % len(HUES)] for index, name in enumerate(names)}


def marker(index: int) -> str:
    """The marker of the name that stands so far down a list: no other name of 36 has it with the same hue."""
    return MARKERS[(index + index // len(HUES)) % len(MARKERS)]


def in_order(values: pd.Series) -> list[str]:
    """The distinct values as they first appear (tables are ordered by size already)."""
    return [str(value) for value in dict.fromkeys(values.dropna().astype("str"))]


def plain(name: str) -> str:
    """A domain's or organism's name for readers."""
    return name.replace("_", " ")


def wrapped_name(name: str, room: int) -> str:
    """A name on several lines of at most `room` characters (at least 6), broken after hyphens and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[-_@ ])", name):
        for piece in (part[start : start + max(room, 6)] for start in range(0, len(part), max(room, 6))):
            if lines[-1] and len(lines[-1] + piece) > max(room, 6):
                lines.append("")
            lines[-1] += piece
    return "\n".join(lines)


def count_range(n: pd.Series, what: str) -> str:
    """`n = 20 answers a checkpoint`, or a range where they differ."""
    if n.empty:
        return f"n = 0 {what}"
    low, high = int(n.min()), int(n.max())
    if high == 1:
        what = what.replace("answers", "answer", 1)
    return f"n = {low:,} {what}" if low == high else f"n = {low:,} to {high:,} {what}"


def _fitting(text: str, width: float) -> float:
    return min(10.0, 120 * width / len(text))
