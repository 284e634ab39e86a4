"""Judges compared on finished logs: what `em judge` does, from logs and judges to tables and a figure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from inspect_ai.log import read_eval_log

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.agreement import Agreement, agreement
from em_tasks.scorers.comparing.finished_logs import finished_logs
from em_tasks.scorers.comparing.label_logs import write_label_logs
from em_tasks.scorers.comparing.ratings import answers_in, judge_logs, own_ratings, ratings_in_csv, ratings_in_logs
from em_tasks.scorers.comparing.report import write_agreement
from em_tasks.scorers.judging.calls import JudgeCalls


def compare_judges(
    logs: Sequence[str | Path],
    judges: Sequence[str],
    published: Mapping[str, Path],
    out: Path,
    batch: bool = False,
    on_log: Callable[[str, str], None] = lambda judge, log: None,
    calls: JudgeCalls | None = None,
    rubrics: Sequence[str] = (),
) -> tuple[Agreement, list[Path]]:
    """Has judges judge the answers in logs, and compares them with each other and with the scores that are there.

    Args:
        logs: Log files or folders; what cannot be read or was never finished is left out (see `finished_logs`).
        judges: Judges as `PROVIDER/MODEL`.
        published: Published scores or human labels: a name and a CSV each. They are written as logs too, for reports.
        out: Folder for the judged logs (one folder a judge) and the results. Scores that the logs carry already join
            as one more judge, called by its name with `(log)` behind it, unless that judge is asked again.
        batch: Use the providers' batch interfaces.
        on_log: Called with judge and log before each.
        calls: Prices, the cap on the cost of all judges together, and the cache.
        rubrics: What is asked, by name or path, instead of what each log's answers were judged under.

    Returns:
        The agreement and the files written (tables as CSV and text, the figure).

    Raises:
        UserError: A judge cannot be had, there is no log or no such CSV, a CSV is unusable, there is nothing to
            compare, or another log is in a new one's place.
    """
    logs = finished_logs(logs).sources
    answers = answers_in(logs)
    # Everything that can be wrong without a call is found before the first call.
    joined = [ratings_in_csv(name, path, answers) for name, path in published.items()]
    carried = [ratings for ratings in own_ratings(logs, answers) if ratings.judge.removesuffix(" (log)") not in judges]
    if len(judges) + len(joined) + len(carried) < 2:
        raise UserError("One judge alone agrees with nobody: name another with --judge, or add scores from a CSV.")
    written = judge_logs(logs, judges, out, batch, on_log, calls, rubrics) if judges else {}
    panel = [*carried, *(ratings_in_logs(judge, paths, answers) for judge, paths in written.items()), *joined]
    headers = [read_eval_log(source, header_only=True) for source in logs]
    until_width = any((header.eval.metadata or {}).get("until_width") is not None for header in headers)
    drawn = tuple(ratings.judge for ratings in joined if ratings.chance is not None)
    agreed = replace(agreement(answers, panel), until_width=until_width, drawn=drawn)
    labelled = [path for ratings in joined for path in write_label_logs(ratings, answers, logs, out)]
    return agreed, [*write_agreement(agreed, out), *labelled]
