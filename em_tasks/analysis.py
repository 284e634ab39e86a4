"""The analysis for notebooks and plugins: logs or judged files to answers, rates, comparisons and a report.

from em_tasks.analysis import analyse
analysis = analyse([Path("logs")])
analysis.answers      # one row an answer
analysis.rates        # EM rates with intervals, by checkpoint, definition and scope
"""

from em_tasks.plugins.analysis.analysis import Analysis, analyse
from em_tasks.plugins.analysis.answers.logs import Reading, read_logs
from em_tasks.plugins.analysis.importing import import_judged
from em_tasks.plugins.analysis.report.report import Report, write_report
from em_tasks.scorers.definitions import DEFINITIONS, Definition

__all__ = [
    "DEFINITIONS",
    "Analysis",
    "Definition",
    "Reading",
    "Report",
    "analyse",
    "import_judged",
    "read_logs",
    "write_report",
]
