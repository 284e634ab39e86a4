"""From logs to a folder one can publish: tables, figures and a Markdown report, with what was odd said in words."""

import csv
import io
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.grid_cells import GridCells
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.claims.comparisons import verdicts
from em_tasks.plugins.analysis.extensions import build_figures, build_tables
from em_tasks.plugins.analysis.figures import example_figures, style
from em_tasks.plugins.analysis.figures.examples import chosen_questions
from em_tasks.plugins.analysis.importing import format_of, plan_import, write_logs
from em_tasks.plugins.analysis.report.findings import Finding, findings
from em_tasks.plugins.analysis.report.html import html
from em_tasks.plugins.analysis.report.markdown import Contents, markdown
from em_tasks.plugins.analysis.report.notes import oddities
from em_tasks.plugins.analysis.statistics.claims_file import read_claims
from em_tasks.plugins.analysis.statistics.rates import MAIN
from em_tasks.plugins.analysis.study import read_study
from em_tasks.plugins.analysis.tables import csv_tables as tables
from em_tasks.plugins.analysis.tables.cells import rounded
from em_tasks.plugins.analysis.tables.csv_tables import in_percent
from em_tasks.plugins.analysis.tables.markup import guarded
from em_tasks.plugins.analysis.tables.writing import write_table
from em_tasks.plugins.safe_names import file_name, printable
from em_tasks.scorers.definition_names import chosen_definitions
from em_tasks.scorers.definitions import DEFINITIONS


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        out: The folder.
        paths: Every file, in the order of writing.
        rates: EM by checkpoint, see `tables.em_by_checkpoint` (percent).
        base_rates: Rates of every base, see `Analysis.base_rates` (fractions).
        notes: What was odd, a sentence each.
        findings: What the data shows and does not show.
        toy_warning: What must be said because toys fed it; None for real models.
        main: Names of the definitions that lead.
        steps_not_recorded: Organisms whose only checkpoint has no known step.
    """

    out: Path
    paths: list[Path]
    rates: pd.DataFrame
    base_rates: pd.DataFrame
    notes: list[str]
    findings: list[Finding]
    toy_warning: str | None
    main: tuple[str, ...]
    steps_not_recorded: frozenset[str]

    def table(self) -> Table:
        """The last checkpoint of every organism for a terminal: outside its domain first, inside it, all questions."""
        shown, *others = self.main
        table = Table(
            title=Text(
                f"EM rate (%) at the last checkpoint, outside its domain first; {shown}, 95 % on these questions"
            ),
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("checkpoint", overflow="fold")
        heads = ("outside", "own", "all", *(f"{name}, all" for name in others), "base, outside")
        for name in heads:
            table.add_column(Text(name), justify="right", no_wrap=True)
        if self.toy_warning:
            table.caption = Text(self.toy_warning, style="bold red")
        columns = ["organism", "control", "step", "baseline", "definition", "scope", "rate", "low", "high"]
        by_organism: dict[str, list[dict[Hashable, Any]]] = {}
        for row in self.rates[columns].to_dict("records"):
            by_organism.setdefault(str(row["organism"]), []).append(row)
        for organism, rows in by_organism.items():
            trained = [row for row in rows if not row["baseline"]]
            last_step = max(row["step"] for row in trained)
            last = {(row["definition"], row["scope"]): row for row in trained if row["step"] == last_step}
            base = {(row["definition"], row["scope"]): row for row in rows if row["baseline"]}
            step = "last" if organism in self.steps_not_recorded else last_step
            checkpoint = f"{organism}@{step}{' (control)' if trained[-1]['control'] else ''}"
            cells = [rate_cell(last.get((shown, "outside")))]
            cells.append(rate_cell(last.get((shown, "in_domain"))).partition(" (")[0])
            cells.append(rate_cell(last.get((shown, "all"))))
            cells += [rate_cell(last.get((name, "all"))).partition(" (")[0] for name in others]
            cells.append(rate_cell(base.get((shown, "outside"))).partition(" (")[0])
            # Names come from data: what looks like rich's markup or a terminal's escape in them is neither.
            table.add_row(*(Text(printable(cell)) for cell in (checkpoint, *cells)))
        if self.rates.empty:
            for base_name, of_base in in_percent(self.base_rates).groupby("base", sort=False, observed=True):
                by_name = {str(row["definition"]): row for row in of_base.to_dict("records")}
                cells = ["", "", rate_cell(by_name[shown])]
                cells += [*(rate_cell(by_name[name]).partition(" (")[0] for name in others), ""]
                table.add_row(*(Text(printable(cell)) for cell in (f"{base_name} (base)", *cells)))
        return table


def rate_cell(row: Mapping[Hashable, Any] | None) -> str:
    """`45.0 (26-66)` for a row of rates in percent; says so where there is none or nothing was counted."""
    if row is None:
        return "none"
    return "no rate" if pd.isna(row["rate"]) else f"{rounded(row['rate'])} ({row['low']:.0f}-{row['high']:.0f})"


def write_report(
    logs: Sequence[Path],
    out: Path,
    definitions: Sequence[str] = (),
    examples: Sequence[str] = (),
    calibration: Callable[[str, str], str | None] = lambda judge, rubric_sha256: None,
    smallest_effect: float | None = None,
    claims: Path | None = None,
    study: Path | None = None,
    notes: Sequence[str] = (),
    cells: GridCells | None = None,
) -> Report:
    """Writes every table and figure that the logs give, and the report as Markdown and HTML.

    Args:
        logs: Inspect logs and folders of them; whatever else lies there is named in the report. Judged CSV files are
            imported first, into `imported` in `out`.
        out: Folder for the report. Files of an earlier report are replaced.
        definitions: EM definitions to lead with, by name or as thresholds (see `chosen_definitions`); findings are
            about the first. `betley` and `cs2881` if left out, with the claims' own first. All published ones are in
            the tables in any case.
        examples: Ids of the questions whose answers are shown as figures; chosen by the data if left out.
        calibration: What is known of a judge, from its name and a rubric's hash; None for an uncalibrated one.
        smallest_effect: The smallest difference of rates that is of interest, a fraction named before the data were
            seen; with it sides can be shown not to differ.
        claims: A claims file (`statistics/claims_file.py`), each of whose claims is held against the data.
        study: A study file (`study.py`) that names the definition that leads, the smallest effect and the family.
        notes: What is to be said beside what the logs say of themselves.
        cells: The cells of the grid that it is of, see `read_logs`; None for all that has logs.

    Raises:
        UserError: A path in `logs` does not exist.
        UserError: There is no judged answer in them, or a definition or question is unknown.
        UserError: What is asked, or the logs' primary family, is not what the study file names.
    """
    registered = read_study(study) if study is not None else None
    if registered is not None:
        points = None if smallest_effect is None else 100 * smallest_effect
        registered.refuse_others(tuple(definitions), None if points is None else round(points, 9))
        smallest_effect = registered.named.smallest_effect / 100
        lead = registered.named.definition
        definitions = [*definitions] or [lead, *(name for name in MAIN if name != lead)]
    published = read_claims(claims) if claims is not None else None
    names = [*definitions] or [*MAIN]
    if published is not None:
        # What is claimed must be among what is compared; without a wish of the user's it comes first.
        others = [name for name in names if name != published.definition]
        names = names if definitions and len(others) < len(names) else [*names, published.definition]
        names = names if definitions else [published.definition, *others]
    chosen = chosen_definitions(names)
    imported: list[str] = []
    logs = [log for path in logs for log in _as_logs(path, out, imported)]
    every = {definition.name: definition for definition in (*chosen, *DEFINITIONS.values())}
    analysis = Analysis(
        read_logs(logs, cells),
        tuple(every.values()),
        tuple(definition.name for definition in chosen),
        calibration,
        smallest_effect,
        published,
        registered,
    )
    if registered is not None:
        registered.refuse_other_family(sum(verdict.definition == analysis.main[0] for verdict in verdicts(analysis)))
    chosen_questions(analysis, tuple(examples))
    out.mkdir(parents=True, exist_ok=True)
    notes = [*notes, *imported, *analysis.reading.notes, *oddities(analysis)]
    contents = Contents(
        tables=build_tables(analysis, notes),
        figures=build_figures(analysis, notes),
        examples=example_figures(analysis, tuple(examples)),
        findings=findings(analysis),
        notes=notes,
    )
    page = out / "report.md"
    page.write_text(markdown(analysis, contents), encoding="utf-8", errors="backslashreplace")
    web = out / "report.html"
    web.write_text(html(analysis, contents), encoding="utf-8", errors="backslashreplace")
    paths = [page, web, *_write_answers(analysis, out), *_write_published_names(analysis, out)]
    for name, (title, rows) in contents.tables.items():
        paths += write_table(name, title, rows, out / "tables")
    paths += _write_figures({**contents.figures, **contents.examples}, out)
    return Report(
        out,
        paths,
        tables.em_by_checkpoint(analysis),
        analysis.base_rates,
        contents.notes,
        contents.findings,
        analysis.toy_warning,
        analysis.main,
        analysis.steps_not_recorded,
    )


def _as_logs(path: Path, out: Path, notes: list[str]) -> list[Path]:
    """The path itself where it has logs, else the logs that its judged answers give."""
    holds_answers = format_of(path) is not None if path.is_file() else path.is_dir() and not _has_logs(path)
    if not holds_answers or (path.suffix == ".json" and not path.is_dir() and _is_log(path)):
        return [path]
    plan = plan_import(path)
    notes += plan.notes
    notes += [f"{file} was left out: {reason}." for file, reason in plan.left_out_alike()]
    return write_logs(plan, out / "imported" / file_name(path.resolve().stem), replace=True)


def _has_logs(folder: Path) -> bool:
    """Whether a folder is one of logs: `em import` wrote it or an evaluation did."""
    has_eval_files = any(file.is_file() for file in folder.rglob("*.eval"))
    return has_eval_files or not any(format_of(file) for file in folder.rglob("*")) or _only_json_logs(folder)


def _only_json_logs(folder: Path) -> bool:
    files = [file for file in folder.rglob("*") if format_of(file) and file.is_file()]
    return all(file.suffix == ".json" for file in files) and any(_is_log(file) for file in files)


def _is_log(file: Path) -> bool:
    """Whether a JSON file begins as Inspect's logs do."""
    with file.open("rb") as opened:
        head = opened.read(2000)
    return b'"eval"' in head and b'"version"' in head


def _write_answers(analysis: Analysis, out: Path) -> list[Path]:
    paths = [out / "answers.csv", out / "answers.parquet"]
    # A carriage return inside an answer would split its row unless texts are quoted.
    answers = guarded(analysis.answers)
    answers.to_csv(paths[0], index=False, quoting=csv.QUOTE_NONNUMERIC, errors="backslashreplace")
    analysis.answers.to_parquet(paths[1], index=False)
    return paths


def _write_published_names(analysis: Analysis, out: Path) -> list[Path]:
    """The CSV files that users of the cs2881 experiment know, in folders by organism and base."""
    paths = []
    # One after the other: those with answers are large.
    for path, table in _published_names(analysis, out):
        path.parent.mkdir(parents=True, exist_ok=True)
        decimals = "%.2f" if path.name == "em_rates_summary.csv" else None
        quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if path.name.endswith("_judged.csv") else csv.QUOTE_MINIMAL
        written = guarded(table)
        written.to_csv(path, index=False, float_format=decimals, quoting=quoting, errors="backslashreplace")
        paths.append(path)
    return paths


def _published_names(analysis: Analysis, out: Path) -> Iterator[tuple[Path, pd.DataFrame]]:
    yield out / "em_by_checkpoint.csv", tables.em_by_checkpoint(analysis).round(tables.DECIMALS)
    yield out / "em_rates_summary.csv", tables.em_rates_summary(analysis)
    for organism, judged in tables.fg_judged(analysis):
        folder = out / "organisms" / file_name(organism)
        yield folder / "step_summary.csv", tables.step_summary(analysis, organism)
        yield folder / "fg_judged.csv", judged
    bases = analysis.scores[analysis.answers["organism"].isna()]
    for base in bases["base"].astype("str").unique():
        yield out / "baseline" / file_name(base) / "base_judged.csv", tables.base_judged(analysis, base)


def _write_figures(figures: dict[str, Figure], out: Path) -> list[Path]:
    folder = out / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        picture, drawing = (folder / f"{file_name(name)}{suffix}" for suffix in (".png", ".svg"))
        text = io.StringIO()
        with style.styled():
            figure.savefig(picture, dpi=style.dots_per_inch(figure, 200))
            # SVG files would carry the date otherwise, and differ from run to run.
            figure.savefig(text, format="svg", metadata={"Date": None})
        # A control character of a name, wherever matplotlib put it, would make it no XML.
        drawing.write_text(printable(text.getvalue()), encoding="utf-8")
        paths += [picture, drawing]
    return paths
