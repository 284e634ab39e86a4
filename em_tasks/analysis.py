"""The analysis for notebooks and for plugins: logs to answers, answers to rates, rates to tables, figures and a report.

    from em_tasks.analysis import analyse
    analysis = analyse([Path("logs")])
    analysis.answers        # a row an answer; `COLUMNS` has the columns with their types
    analysis.rates          # EM of every checkpoint by definition and scope
    TABLES["by_scope"](analysis)

A table or figure of one's own is a function of the `Analysis` and is entered under `em_tasks.tables` or
`em_tasks.figures`, see `em_tasks.plugins.analysis.extensions`. Rates are fractions; tables for people are in percent.
"""

from em_tasks.plugins.analysis.analysis import Analysis, analyse
from em_tasks.plugins.analysis.answers.frame import COLUMNS, trajectories
from em_tasks.plugins.analysis.answers.logs import Evaluation, Reading, read_logs
from em_tasks.plugins.analysis.figures import FIGURES
from em_tasks.plugins.analysis.figures.style import finish, new_figure, styled
from em_tasks.plugins.analysis.importing import Map, Plan, Who, import_judged, plan_import, read_map, write_logs
from em_tasks.plugins.analysis.report.report import Report, write_report
from em_tasks.plugins.analysis.statistics.rates import rates
from em_tasks.plugins.analysis.tables.writing import TABLES
from em_tasks.plugins.log_contract import LogMetadata, SampleMetadata, Subject, Verdict
from em_tasks.scorers.definitions import DEFINITIONS, Definition

__all__ = [
    "COLUMNS",
    "DEFINITIONS",
    "FIGURES",
    "TABLES",
    "Analysis",
    "Definition",
    "Evaluation",
    "LogMetadata",
    "Map",
    "Plan",
    "Reading",
    "Report",
    "SampleMetadata",
    "Subject",
    "Verdict",
    "Who",
    "analyse",
    "finish",
    "import_judged",
    "new_figure",
    "plan_import",
    "rates",
    "read_logs",
    "read_map",
    "styled",
    "trajectories",
    "write_logs",
    "write_report",
]
