"""Text from data is no markup: names, questions and answers in Markdown and CSV as what they are."""

import math
import re

import pandas as pd

from em_tasks.plugins.safe_names import printable

CODE = re.compile(r"`(?:em |inspect )?[\w<>=.+%/@-]{1,60}`")
"""Code in a sentence of ours: a definition's name, an option."""

ACTIVE = re.compile(r"([\\`*\[\]|])")
FORMULA = re.compile(r"^[=+\-@\t\r]")
NUMBERS = re.compile(r"^[+-]?(?:\d[\d.,]*|inf|nan)(?:e[+-]?\d+)?(?: ?%)?(?: to [+-]?[\d.,]+)?$", re.IGNORECASE)
"""Numbers and intervals, which may begin with a sign."""


def markdown_text(sentence: str) -> str:
    """A sentence that may hold names from data, for Markdown; code of ours in it (a definition's name) stays code."""
    parts, at = [], 0
    for match in CODE.finditer(sentence):
        parts += [_escaped(sentence[at : match.start()]), match[0]]
        at = match.end()
    return " ".join("".join([*parts, _escaped(sentence[at:])]).split("\n"))


def markdown_cell(value: object) -> str:
    """A table's cell for Markdown."""
    return " ".join(_escaped(str(readable(value))).splitlines())


def readable(value: object) -> object:
    """A cell as readers want it: a number that nobody has formatted to four digits, nothing for one that is missing."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1e15 else f"{value:.3g}"
    return value


def _escaped(text: str) -> str:
    # An entity cannot become a tag, whatever reads the Markdown.
    text = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return ACTIVE.sub(r"\\\1", text)


def guarded(rows: pd.DataFrame) -> pd.DataFrame:
    """A table for CSV files: text that a spreadsheet would take for a formula has an apostrophe before it."""
    changed = {}
    for name in rows.columns:
        column = rows[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            categories = column.cat.categories
            if categories.dtype.kind in "OUT" or pd.api.types.is_string_dtype(categories.dtype):
                changed[name] = column.cat.rename_categories([_guarded(value) for value in categories])
        elif column.dtype == object or pd.api.types.is_string_dtype(column.dtype):
            values = column.tolist()
            if any(isinstance(value, str) and FORMULA.match(value) for value in values):
                changed[name] = pd.Series([_guarded(value) for value in values], column.index, dtype="object")
    return rows.assign(**{str(name): column for name, column in changed.items()}) if changed else rows


def _guarded(value: object) -> object:
    text = value if isinstance(value, str) else None
    return f"'{text}" if text and FORMULA.match(text) and not NUMBERS.match(text) else value
