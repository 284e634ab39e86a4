"""The report as one HTML page that asks nothing of the network: figures, sortable tables, filterable transcripts.

Tables come from the package itables (DataTables); the page adds only its own layout, light and dark.
"""

import io
from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from itables import JavascriptFunction, options
from itables.javascript import generate_init_offline_itables_html, to_html_datatable
from matplotlib.figure import Figure

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.figures import style
from em_tasks.plugins.analysis.report.findings import HEADINGS, HOW
from em_tasks.plugins.analysis.report.markdown import LEAD, Contents, definition_lines, what_was_run
from em_tasks.plugins.analysis.report.summary import in_short
from em_tasks.plugins.analysis.tables.markup import CODE, readable
from em_tasks.plugins.analysis.tables.writing import with_legend
from em_tasks.plugins.safe_names import printable

MOST_TRANSCRIPTS = 20_000
"""More answers than this would make the page slow; then each question and checkpoint keeps its first samples."""

CLAMPED = """function (data, type) {
  if (type !== "display") return data;
  const text = document.createElement("div");
  text.className = "clamp";
  text.title = "click for all of it";
  text.innerHTML = data;
  return text;
}"""
"""Long texts are cut to a few lines until they are clicked. What DataTables gets is escaped already."""

SCRIPT = """const dark = on => document.documentElement.classList.toggle("dark", on);
dark(matchMedia("(prefers-color-scheme: dark)").matches);
document.addEventListener("click", event => {
  const opened = event.target.closest(".clamp, figure");
  if (opened && !String(getSelection())) opened.classList.toggle("whole");
});
"""
"""Light or dark as the reader's system is; a click enlarges a figure and shows all of a long text."""

PAGE = Path(__file__).with_name("report.css")


def html(analysis: Analysis, contents: Contents) -> str:
    """The whole page."""
    sections = {
        "short": ("In short", _items(in_short(analysis))),
        "definitions": ("What the rates mean", _items(definition_lines(analysis))),
        "run": ("What was run", _run(what_was_run(analysis))),
        "notes": ("Notes", _items(contents.notes or ["Nothing odd was found."])),
        "results": ("Results", "".join(_table(name, *contents.tables[name]) for name in LEAD)),
        "findings": ("Findings", _findings(contents)),
        "figures": ("Figures", "".join(_picture(name, figure) for name, figure in contents.figures.items())),
        "tables": (
            "Tables",
            "".join(_table(name, *table) for name, table in contents.tables.items() if name not in LEAD),
        ),
        "transcripts": ("Transcripts", _transcripts(analysis)),
        "examples": ("Examples", "".join(_picture(name, figure) for name, figure in contents.examples.items())),
    }
    if not contents.examples:
        del sections["examples"]
    banner = f'<p class="toy" role="alert">{escape(analysis.toy_warning)}</p>' if analysis.toy_warning else ""
    banner += f'<p class="study">{_code(printable(analysis.study.line))}</p>' if analysis.study is not None else ""
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, (title, _) in sections.items())
    body = "".join(
        f'<section id="{n}"><h2>{escape(title)}</h2>{part}</section>' for n, (title, part) in sections.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>Emergent misalignment: report</title>
<style>{PAGE.read_text(encoding="utf-8")}</style>
<script>
{SCRIPT}</script></head><body>
{_tables_script()}
{banner}<header><h1>Emergent misalignment: report</h1>
<button type="button" onclick="dark(!document.documentElement.classList.contains('dark'))">light or dark</button>
</header>
<nav>{links}</nav><main>{body}</main></body></html>
"""


def transcripts(analysis: Analysis) -> tuple[pd.DataFrame, int]:
    """Rows for the table of transcripts, with every question and checkpoint, and how many answers had to stay out.

    The lowest alignment stands first, answers without a score last; their cell is empty, and `unscored` says why.
    """
    answers = analysis.answers
    left_out = 0
    if len(answers) > MOST_TRANSCRIPTS:
        cells = answers.groupby(
            ["organism", "base", "step", "question_set", "question_id"], observed=True, dropna=False
        )
        order = cells.cumcount()
        most = 1
        while int((order < most + 1).sum()) <= MOST_TRANSCRIPTS:
            most += 1
        left_out = int((order >= most).sum())
        answers = answers[order < most]
    answers = answers.sort_values("alignment", kind="stable", na_position="last")
    organism = answers["organism"].astype("str").fillna("base " + answers["base"].astype("str"))
    reason = answers["alignment_reason"].astype("str").fillna(answers["coherence_reason"].astype("str"))
    missing = answers["alignment"].isna() | answers["coherence"].isna()
    replies = [answers[f"{rubric}_reply"].astype("str").fillna("") for rubric in ("alignment", "coherence")]
    rows = pd.DataFrame(
        {
            "organism": organism,
            "step": answers["step"].astype("object").mask(organism.isin(analysis.steps_not_recorded), "last"),
            "scope": answers["scope"].astype("str").fillna("base only").str.replace("_", " "),
            "topic": answers["topic"].astype("str"),
            "sample": answers["sample"],
            "alignment": [_score(value) for value in answers["alignment"]],
            "coherence": [_score(value) for value in answers["coherence"]],
            "question": answers["question"].astype("str"),
            "answer": answers["answer"],
            "unscored": reason.fillna(missing.map({True: "not said", False: ""})),
            "judge": answers["judge"].astype("str"),
            "judge said": replies[0] + " | " + replies[1],
        }
    )
    return rows.reset_index(drop=True), left_out


def _transcripts(analysis: Analysis) -> str:
    rows, left_out = transcripts(analysis)
    sentence = f"{len(rows):,} answers; choose organisms, steps, topics and scopes in the panes, or search in any text."
    if left_out:
        sentence += f" {left_out:,} further samples of the same questions and checkpoints are in answers.parquet."
    panes = {"searchPanes": {"columns": [0, 1, 2, 3], "cascadePanes": False, "initCollapsed": True, "threshold": 1}}
    clamp = JavascriptFunction(CLAMPED)
    wide = [
        {"targets": [8], "className": "text", "render": clamp},
        {"targets": [7, 11], "className": "text narrow", "render": clamp},
    ]
    return f"<p>{escape(sentence)}</p>" + _datatable(
        rows, "transcripts-table", pageLength=10, layout={"top1": panes}, columnDefs=wide, order=[]
    )


def _score(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.1f}"


def _datatable(rows: pd.DataFrame, table_id: str, **options: Any) -> str:
    return to_html_datatable(
        rows.map(readable),
        table_id=table_id,
        connected=False,
        maxBytes=0,
        showIndex=False,
        allow_html=False,
        display_logo_when_loading=False,
        classes="display compact",
        **options,
    )


def _tables_script() -> str:
    return generate_init_offline_itables_html(options.dt_bundle)


def _table(name: str, title: str, rows: pd.DataFrame) -> str:
    if rows.empty:
        return f"<h3>{escape(title)}</h3><p>Nothing to show.</p>"
    # A column that says nothing of any row takes the place of those that do.
    telling = rows.loc[:, [not (rows[column].astype("str") == "").all() for column in rows]]
    return f"<h3>{escape(with_legend(title, rows))}</h3>" + _datatable(
        telling, f"table-{quote(name)}", pageLength=25, order=[]
    )


def _run(lines: list[str]) -> str:
    """Answers, bases, judges and their calibration, and the rest (versions, hashes) to open."""
    return f"{_items(lines[:4])}<details><summary>Versions, recipes, hashes</summary>{_items(lines[4:])}</details>"


def _findings(contents: Contents) -> str:
    parts = [f"<p>{_code(HOW)}</p>"]
    for verdict, heading in HEADINGS.items():
        sentences = [finding.sentence for finding in contents.findings if finding.verdict == verdict]
        if sentences:
            parts.append(
                f"<details open><summary>{escape(heading)} ({len(sentences)})</summary>{_items(sentences)}</details>"
            )
    return "".join(parts)


def _items(lines: Any) -> str:
    return "<ul>" + "".join(f"<li>{_code(printable(str(line)))}</li>" for line in lines) + "</ul>"


def _code(line: str) -> str:
    """A sentence with code of ours as code elements, as `markup.CODE` knows it; all else in it is text."""
    parts, at = [], 0
    for match in CODE.finditer(line):
        parts += [escape(line[at : match.start()]), f"<code>{escape(match[0][1:-1])}</code>"]
        at = match.end()
    return "".join([*parts, escape(line[at:])])


def _picture(name: str, figure: Figure) -> str:
    """A figure in light and in dark, which a click enlarges."""
    alt = escape(name.replace("_", " "), quote=True)
    with style.darkened(figure):
        dark = _png(figure)
    return (
        f'<figure title="click to enlarge"><img class="light" alt="{alt}" src="{_png(figure)}">'
        f'<img class="dark" alt="{alt}" src="{dark}"></figure>'
    )


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Wide figures are drawn finer: a heatmap of many checkpoints is there to be enlarged.
    width = figure.get_size_inches()[0]
    dots = style.dots_per_inch(figure, 130 if width < 11 else 180)
    with style.styled():
        figure.savefig(buffer, format="png", dpi=dots, facecolor=figure.get_facecolor())
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode('ascii')}"
