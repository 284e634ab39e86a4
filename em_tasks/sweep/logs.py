"""The logs that lie in a sweep's folder: which evaluations are done, and what cannot be read."""

import fcntl
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em_tasks.sweep.plan import Job, Subject

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

DAMAGED = ".damaged"
ANSWERS = ".answers"
LOCK = ".lock"


@dataclass
class Logs:
    """What lies in a sweep's folder.

    Attributes:
        headers: Every log that can be read, by its file.
        unreadable: Those that cannot, and why.
        changed: When each that can be read was changed last, in nanoseconds.
    """

    headers: "dict[Path, EvalLog]" = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)
    changed: dict[Path, int] = field(default_factory=dict)

    def of(self, job: Job, subject: Subject) -> "tuple[Path, EvalLog] | None":
        """The successful log of an evaluation, judged or not; a judged one if there is one."""
        of_model = self._by_model.get(f"em/{subject.name}", ())
        fitting = [(path, log) for path, log in of_model if is_evaluation(log, job, subject)]
        return min(fitting, key=lambda entry: entry[1].results is None or not entry[1].results.scores, default=None)

    @cached_property
    def _by_model(self) -> "dict[str, list[tuple[Path, EvalLog]]]":
        """The logs of each model: a grid has thousands, and is asked for each of them."""
        by_model: dict[str, list[tuple[Path, EvalLog]]] = {}
        for path, log in self.headers.items():
            by_model.setdefault(log.eval.model, []).append((path, log))
        return by_model


def read_logs(folder: Path, before: Logs | None = None) -> Logs:
    """Reads the headers of all logs in a folder.

    Args:
        folder: The folder.
        before: What an earlier look read: logs that were not changed since are not read again.
    """
    from inspect_ai.log import read_eval_log

    logs, before = Logs(), before or Logs()
    for path in sorted(folder.rglob("*.eval")):
        if not path.is_file():  # Reading a pipe would wait for ever.
            logs.unreadable[path] = "it is no file"
            continue
        try:
            changed = path.stat().st_mtime_ns
            known = before.headers.get(path) if before.changed.get(path) == changed else None
            logs.headers[path] = known or read_eval_log(str(path), header_only=True)
            logs.changed[path] = changed
        except Exception as error:
            logs.unreadable[path] = " ".join(str(error).split())[:120] or type(error).__name__
    return logs


def is_evaluation(log: "EvalLog", job: Job, subject: Subject) -> bool:
    """Whether a log is the finished evaluation of a subject: the same model, questions, sampling and engine."""
    spec = log.eval
    judge = ((spec.model_roles or {}).get("grader"),) if job.options.score else ()
    return (
        log.status == "success"
        and not log.invalidated
        and spec.model == f"em/{subject.name}"
        and spec.model_args == model_args(job, subject)
        and spec.task_version == subject.task_version
        and {**spec.task_args_passed} == job.options.task_args
        and all(isinstance(role, list) or role is None or role.model == job.judge for role in judge)
        and log.results is not None
        and log.results.completed_samples >= job.options.samples * subject.questions
    )


def is_judged(log: "EvalLog") -> bool:
    """Whether a log's answers have been judged."""
    return log.results is not None and bool(log.results.scores)


def is_fully_judged(path: Path, log: "EvalLog") -> bool:
    """Whether a log's answers have been judged, and its judge failed at none of them."""
    from em_tasks.scorers.comparing.judging_again import has_failed_calls

    return is_judged(log) and not has_failed_calls(path, log)


def model_args(job: Job, subject: Subject) -> dict[str, Any]:
    """What a subject's model is made with: part of its evaluation's identity."""
    return {"pin": subject.sha256[:16], "identity": subject.identity, **job.options.model_args}


def outstanding(jobs: Iterable[Job], logs: Logs) -> list[Job]:
    """The jobs with the evaluations alone that are not done; one at which its judge failed in part is not."""

    def done(job: Job, subject: Subject) -> bool:
        entry = logs.of(job, subject)
        return entry is not None and (not job.options.score or is_fully_judged(*entry))

    left = [replace(job, subjects=tuple(s for s in job.subjects if not done(job, s))) for job in jobs]
    return [job for job in left if job.subjects]


def put_aside(unreadable: Iterable[Path], note: Callable[[str], None]) -> None:
    """Renames logs that cannot be read, so that Inspect passes them over too; their content stays as it is."""
    for path in unreadable:
        aside = path.with_name(path.name + DAMAGED)
        path.rename(aside)
        note(f"{path} cannot be read as a log; it is passed over and kept as {aside.name}")


def remove_superseded(folder: Path) -> None:
    """Removes the unfinished logs of evaluations that were finished since: what they hold is in the finished ones."""
    logs = read_logs(folder).headers
    finished = {log.eval.task_id for log in logs.values() if log.status == "success"}
    for path, log in logs.items():
        if log.status != "success" and log.eval.task_id in finished:
            path.unlink()


def remove_unjudged(folder: Path) -> None:
    """Removes unfinished logs with answers that nobody judged: Inspect would take them over as they are.

    The answers are kept beside the logs, so none is asked for again.
    """
    from inspect_ai.log import read_eval_log_sample_summaries

    for path, log in read_logs(folder).headers.items():
        if log.status != "success":
            summaries = read_eval_log_sample_summaries(str(path))
            if any(not summary.scores and not summary.error for summary in summaries):
                path.unlink()


@contextmanager
def alone_in(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Has one process at a time write logs to a folder; the others wait for it and then find its work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another process is writing logs into {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def folders(jobs: Sequence[Job]) -> list[Path]:
    """The folders of the bases' logs, each once."""
    return list(dict.fromkeys(job.folder for job in jobs))
