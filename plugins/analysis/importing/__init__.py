"""Judged answers of other experiments, turned into logs: what files hold, whose answers they are, and the logs."""

from collections.abc import Callable
from pathlib import Path

from em_tasks.plugins.analysis.importing.logs import write_logs
from em_tasks.plugins.analysis.importing.plan import LeftOut, Plan, PlannedLog, plan_import
from em_tasks.plugins.analysis.importing.tables import format_of
from em_tasks.plugins.analysis.importing.who import Map, Who, read_map

__all__ = [
    "LeftOut", "Map", "Plan", "PlannedLog", "Who", "format_of", "import_judged", "plan_import", "read_map",
    "write_logs",
]  # fmt: skip


def import_judged(
    source: Path, out: Path, given: Who | None = None, mapping: Map | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:  # fmt: skip
    """Plans and writes in one go, see `plan_import` and `write_logs`."""
    return write_logs(plan_import(source, given, mapping, progress), out, progress)
