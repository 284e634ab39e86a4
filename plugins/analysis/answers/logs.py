"""Inspect logs to the frame of answers: what was found, what was left out, and why.

Only logs that follow the contract of docs/architecture.md are read. Whatever else lies under the given paths is named
in the notes: half-written logs, logs of other tasks, repeated evaluations.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from inspect_ai.log import EvalLog, read_eval_log

from em_tasks.plugins.analysis.answers.frame import ANSWER_KEY, answers_frame, under
from em_tasks.plugins.analysis.answers.grid_cells import NOT_OF_THE_GRID, GridCells, LeftOut
from em_tasks.plugins.analysis.answers.identity import refuse_two_of_one_name
from em_tasks.plugins.analysis.answers.log_processes import Rows, log_processes
from em_tasks.plugins.analysis.answers.log_rows import LogToRead, Tally
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import FAILED, FILTERED, SCORE, SCORES_TEXT, LogMetadata
from em_tasks.plugins.safe_names import printable, without_folders

INSPECTS_OWN = ("logs.json", "eval-set.json", "listing.json")
"""JSON files that Inspect keeps beside its logs."""
MOST_NAMED = 5
"""Organisms that a note names."""


@dataclass(frozen=True)
class Evaluation:
    """One log: what was run, for the report's header. `asked` pairs judges with the hashes of the rubrics asked.

    `step_recorded` is false for imported answers of a checkpoint whose step their file does not say; it is then 1.
    `rubrics` are the lowest and highest number of the chosen rubrics' scales, and their hashes, by name; `rubric_names`
    what the verdicts call those that were asked (`alignment`, or `alignment (betley)` where that was said at import).
    `axes` is where the organism, called `organism` in tables, stands in a grid: a value by the axis's name.
    `asked_judge` is the judge as the evaluation was given it, `judges` who says that it judged.
    `until_width` is how many points wide an interval was to become where that decided how many answers there are.
    """

    log: str
    created: str
    task: str
    task_version: str
    model: str
    subject: str
    base: str
    organism: str | None
    axes: dict[str, Any]
    step_recorded: bool
    asked_judge: str | None
    judges: tuple[str, ...]
    judge_rubrics: frozenset[tuple[str, str]]
    packages: dict[str, str]
    config: dict[str, Any]
    fingerprints: dict[str, str | None]
    answers: int
    rubrics: dict[str, tuple[float, float, str]] = field(default_factory=dict)
    rubric_names: frozenset[str] = frozenset()
    until_width: float | None = None


@dataclass(frozen=True)
class Reading:
    """Everything that logs gave.

    Attributes:
        answers: The frame, one row an answer, each answer once.
        rejudged: Rows of the same answers as other judges scored them (same columns; may be empty).
        evaluations: The logs that were read.
        notes: What was odd or left out, a sentence each.
        other_tasks: Logs of other tasks on `em/` models, for the table of side effects.
        judges: The judges of a grid that several judged, as they were asked for, in the order in which they lead; else
            empty.
        axis_values: The values of the grid's axes in the order of its file; empty where no grid's cells were given.
    """

    answers: pd.DataFrame
    rejudged: pd.DataFrame
    evaluations: list[Evaluation]
    notes: list[str]
    other_tasks: tuple[Path, ...] = ()
    judges: tuple[str, ...] = ()
    axis_values: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def read_logs(paths: Sequence[Path], cells: GridCells | None = None) -> Reading:
    """Reads every log under the given files and folders, several at a time where they are many.

    Args:
        paths: Logs (`*.eval`, `*.json`) and folders that hold them, at any depth.
        cells: The cells of the grid that is read: other logs are left out and named, and the first of a cell's judges
            gives its answers' scores. None for all logs, where the judge that scored most does.

    Raises:
        UserError: A path does not exist.
        UserError: A process that helped with reading died.
        UserError: There is no judged answer in any of them.
        UserError: Two organisms go by one name (see `identity`).
    """
    notes: list[str] = []
    other_tasks: list[Path] = []
    files = find_logs(paths, notes)
    logs, abouts = [], []
    others: dict[LeftOut, set[str]] = {}
    with log_processes(files) as read_rows:
        begun: list[_Begun | str] = []
        for file in files:
            opened = _header(file)
            why = cells.left_out(*_cell(*opened)) if cells is not None and isinstance(opened, tuple) else None
            if why is not None:
                others.setdefault(why[0], set()).add(why[1])
                continue
            if opened is None:
                other_tasks.append(file)
                continue
            if isinstance(opened, str):
                begun.append(opened)
                continue
            rank = 0 if cells is None else cells.rank(*_cell(*opened))
            begun.append(_Begun(file, *opened, read_rows(_to_read(file, opened[0])), rank))
        for begun_log in begun:
            if isinstance(begun_log, str):
                notes.append(begun_log)
            elif (log := _log(begun_log, notes)) is not None:
                logs.append(log)
                abouts.append((begun_log.file, begun_log.about))
    where = ", ".join(str(path) for path in paths)
    notes += [f"Logs of {NOT_OF_THE_GRID[what]} were left out ({_named(names)})." for what, names in others.items()]
    if not any(log.evaluation.answers for log in logs):
        reasons = " ".join(notes) if notes else "No log was found there."
        raise UserError(
            f"There is no judged answer in {where}: {len(files)} files looked at. {reasons} Logs are written by "
            "`em sweep` and `em import`."
        )
    refuse_two_of_one_name(abouts)
    evaluations = [log.evaluation for log in logs]
    # What the frame is sorted by is the same for all answers of a log, so that their texts need never be moved.
    logs.sort(key=lambda log: tuple((log.common[name] is None, log.common[name]) for name in ORDER))
    answers = answers_frame([(log.common, log.batches) for log in logs])
    ranks = None if cells is None else np.repeat([log.rank for log in logs], [log.evaluation.answers for log in logs])
    logs.clear()
    kept, rejudged = _one_row_an_answer(answers, notes, None if ranks is None else pd.Series(ranks, answers.index))
    asked = () if cells is None else cells.in_order({*kept["asked_judge"], *rejudged["asked_judge"]})
    values = {} if cells is None else cells.values
    return Reading(kept, rejudged, evaluations, notes, tuple(other_tasks), asked if len(asked) > 1 else (), values)


def _named(names: Collection[str]) -> str:
    """`3: a, b, c`, cut where there are many."""
    shown = [printable(name) for name in sorted(names)]
    return f"{len(shown)}: {', '.join(shown[:MOST_NAMED])}{', ...' * (len(shown) > MOST_NAMED)}"


ORDER = ("base", "organism", "step", "log", "created")
"""How logs follow on each other in the frame."""


@dataclass(frozen=True)
class _Begun:
    """A log of ours whose rows are being read; see `GridCells.rank`."""

    file: Path
    header: EvalLog
    about: LogMetadata
    rows: Future[Rows]
    rank: int


@dataclass(frozen=True)
class _Log:
    """A log that was read: what all of its answers share, and their rows."""

    common: dict[str, Any]
    batches: list[pa.RecordBatch]
    evaluation: Evaluation
    rank: int


def find_logs(paths: Sequence[Path], notes: list[str] | None = None) -> list[Path]:
    """The `*.eval` and `*.json` files under the given files and folders, sorted.

    Args:
        paths: Files and folders.
        notes: Receives a sentence for each that is no file: a dangling link, a pipe.

    Raises:
        UserError: A path does not exist.
    """
    files: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise UserError(f"There is no file or folder {path}. Give the folder that `em sweep` wrote logs to.")
        if path.is_dir():
            files.update(file for ext in ("*.eval", "*.json") for file in path.rglob(ext))
        else:
            files.add(path)
    logs = []
    for file in sorted(files):
        if file.name in INSPECTS_OWN or file.is_dir():
            continue
        if file.is_file():
            logs.append(file)
        elif notes is not None:
            what = "is a link to nothing" if file.is_symlink() else "is a pipe or a device"
            notes.append(f"{printable(file.name)} {what} and was left out.")
    return logs


def _header(file: Path) -> tuple[EvalLog, LogMetadata] | str | None:
    """A log's header and what it says of the model, or why the log is left out; None for a checkpoint's other task."""
    try:
        header = read_eval_log(str(file), header_only=True)
    except Exception as error:  # a damaged file can raise anything, and the others are still worth reading
        return _damaged(file, type(error).__name__)
    try:
        about = LogMetadata.from_metadata(header.metadata)
        # What stands in a log may be of another machine, and reports are published.
        about = about and replace(
            about,
            base=without_folders(about.base),
            size=without_folders(about.size),
            organism=about.organism and without_folders(about.organism),
        )
    except UserError as error:
        return f"{printable(file.name)} was left out. {error}"
    if about is None and header.eval.model.startswith("em/"):
        return None
    if about is None:
        return f"{printable(file.name)} is a log of another task ({header.eval.task}) and was left out."
    return header, about


def _to_read(file: Path, header: EvalLog) -> LogToRead:
    results = header.results
    all_completed = results is not None and results.completed_samples == results.total_samples
    return LogToRead(
        file=file,
        question_ids=tuple(str(sample_id) for sample_id in header.eval.dataset.sample_ids or []),
        completed=results.total_samples if results is not None and all_completed else None,
        grader=_asked_judge(header) or "unknown",
        rubrics=tuple(_rubrics(header)) or None,
    )


def _asked_judge(header: EvalLog) -> str | None:
    """The judge as the evaluation was given it; None where the log does not say."""
    role = (header.eval.model_roles or {}).get("grader")
    return getattr(role, "model", None)


def _cell(header: EvalLog, about: LogMetadata) -> tuple[str | None, str | None, str | None]:
    """Organism, condition and judge of a log."""
    return about.organism, about.condition, _asked_judge(header)


def _rubrics(header: EvalLog) -> dict[str, tuple[float, float, str]]:
    """The rubrics that were chosen for an evaluation, by name; those that cannot be read are left out."""
    options = next((each.options or {} for each in header.eval.scorers or [] if each.name.endswith(SCORE)), {})
    named = options.get("rubrics")
    rubrics = {}
    for rubric in named if isinstance(named, list) else ():
        try:
            low, high = (float(number) for number in rubric.get("scale", (0, 100)))
            content = [rubric["prompt"], low, high, rubric.get("words"), rubric.get("special")]
            rubrics[str(rubric["name"])] = (low, high, sha256(json.dumps(content).encode()).hexdigest())
        except (AttributeError, KeyError, TypeError, ValueError):
            continue
    return rubrics


def _damaged(file: Path, error: str) -> str:
    kind = "is damaged or was never finished" if file.suffix == ".eval" else "is no readable Inspect log"
    return f"{printable(file.name)} {kind} and was left out ({error})."


def _log(begun: _Begun, notes: list[str]) -> _Log | None:
    """A log as it was read, None where it has to be left out; whatever was odd is noted."""
    file, header, name = begun.file, begun.header, printable(begun.file.name)
    batches, tally = begun.rows.result()
    if tally.damage is not None:
        notes.append(_damaged(file, tally.damage))
        return None
    if not tally.samples:
        notes.append(f"{name} has no answers (status {header.status}) and was left out.")
        return None
    if header.status != "success":
        used = f"its {answered} answers are used" if (answered := tally.samples - tally.failed) else "it has no answers"
        notes.append(f"{name} was not finished (status {header.status}); {used}.")
    planned = header.results.total_samples if header.status == "success" and header.results else 0
    if tally.samples < planned:
        notes.append(f"{name} lacks {planned - tally.samples} of its {planned} samples; those that are there are used.")
    if tally.failed:
        notes.append(f"{name}: {tally.failed} samples ended in an error, have no answer and count nowhere.")
    if tally.off_scale:
        notes.append(
            f"{name}: {tally.off_scale} scores are below 0 or above 100 and count as none; another "
            "scorer or scale gave them."
        )
    if tally.unjudged:
        notes.append(
            f"{name}: {tally.unjudged} answers were never judged and count nowhere; `inspect score` can do it."
        )
    evaluation = _evaluation(file, header, begun.about, batches, tally)
    return _Log(_common(file, header, begun.about), batches, evaluation, begun.rank)


SUBJECT_COLUMNS = (
    "organism", "step", "domain", "control", "data", "base", "size", "parameters", "toy", "training_seed",
)  # fmt: skip


def _common(file: Path, header: EvalLog, about: LogMetadata) -> dict[str, Any]:
    """The columns of the frame that are the same for all answers of a log."""
    return {
        **{name: getattr(about, name) for name in SUBJECT_COLUMNS},
        # Under a condition an organism and its base are a trajectory of their own.
        "organism": about.organism and under(about.organism, about.condition),
        "base": under(about.base, about.condition),
        "condition": about.condition,
        "epoch": math.nan if about.epoch is None else about.epoch,
        "engine": header.eval.model.partition("/")[0],
        "log": printable(file.name),
        "created": header.eval.created,
        "asked_judge": _asked_judge(header),
    }


def _evaluation(
    file: Path, header: EvalLog, about: LogMetadata, batches: list[pa.RecordBatch], tally: Tally
) -> Evaluation:
    spec = header.eval
    return Evaluation(
        log=printable(file.name),
        created=spec.created,
        task=spec.task,
        task_version=str(spec.task_version),
        model=spec.model,
        subject=under(about.name, about.condition),
        base=under(about.base, about.condition),
        organism=about.organism and under(about.organism, about.condition),
        axes=_axes(about),
        step_recorded=about.step_recorded,
        judge_rubrics=frozenset(tally.judge_rubrics),
        asked_judge=_asked_judge(header),
        judges=tuple(sorted({name for batch in batches for name in batch["judge"].dictionary.to_pylist()})),
        packages=dict(spec.packages),
        config=header.plan.config.model_dump(exclude_none=True),
        fingerprints={
            "base_fingerprint": about.base_fingerprint,
            "recipe_sha256": about.recipe_sha256,
            "questions_sha256": about.questions_sha256,
        },
        answers=sum(batch.num_rows for batch in batches),
        rubrics=_rubrics(header),
        rubric_names=frozenset(tally.rubric_names),
        until_width=about.until_width,
    )


def _axes(about: LogMetadata) -> dict[str, Any]:
    """An organism's place in a grid, with the condition as one more axis; empty outside of grids."""
    axes = {
        printable(name): printable(without_folders(value)) if isinstance(value, str) else value
        for name, value in about.axes.items()
    }
    return axes | {"condition": about.condition or "none"} if axes else {}


def _one_row_an_answer(
    answers: pd.DataFrame, notes: list[str], ranks: pd.Series | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Keeps the newest of repeated evaluations, and sets other judges' rows of the same answers apart.

    Args:
        answers: All rows.
        notes: Receives what is to be said of it.
        ranks: Which judge of its cell each row is by (see `GridCells.rank`); None outside of grids.
    """
    if not answers.duplicated(ANSWER_KEY).any():
        return answers, answers.head(0)
    keys = answers[[*ANSWER_KEY, "judge", "log", "created"]].sort_values("created", kind="stable")
    # Two judges of a grid may be served under one name.
    judge = keys["judge"] if ranks is None else ranks.loc[keys.index]
    repeated = keys.assign(judge=judge).duplicated([*ANSWER_KEY, "judge"], keep="last")
    if repeated.any():
        dropped = sorted({str(name) for name in keys.loc[repeated, "log"]})
        notes.append(
            f"{int(repeated.sum())} answers were evaluated more than once (same checkpoint, question and sample); the "
            f"newest is kept, the older ones in {_some(dropped)} are left out."
        )
        keys = keys[~repeated]
    keys = keys.astype({"judge": "str"})
    failed = (answers["alignment_reason"] == FAILED).loc[keys.index]
    scored = keys["judge"].map(keys["judge"].value_counts()).astype("int64")
    # A judge all of whose calls failed scored nothing.
    scored = scored.where(keys["judge"].isin(keys.loc[~failed, "judge"]), 0)
    # In a grid the first of its axis leads, however many it scored.
    scored = scored if ranks is None else -ranks.loc[keys.index]
    # Of judges that scored equally many the first by name, so that neither scores nor dates choose it.
    keys = keys.assign(scored=scored).sort_values(["scored", "judge"], ascending=[True, False], kind="stable")
    other = keys.duplicated(ANSWER_KEY, keep="last")
    another = _another_text(answers, keys, other)
    if another.any():
        left_out = sorted({str(name) for name in keys.loc[another, "log"]})
        notes.append(
            f"{int(another.sum()):,} answers in {_some(left_out)} go by the checkpoint, question and sample of answers "
            "that another judge scored, but their texts are others: the model was asked twice. They say nothing of how "
            "judges differ and are left out; the answers of the judge that rates are by are kept."
        )
    judged_again = other & ~another
    without_score = judged_again & failed.loc[keys.index]
    if (ask_again := without_score & (answers["alignment_reply"] != FILTERED).loc[keys.index]).any():
        notes.append(
            f"Of {int(judged_again.sum()):,} answers that another judge was asked about it gave no score to "
            f"{int(ask_again.sum()):,}: its calls failed. Given again, `em grid` and `em judge` ask it again."
        )
    if (judged_again & ~without_score).any():
        told = ~another & ~without_score
        notes.append(_several_judges(keys[told], judged_again[told], grid=ranks is not None))
    kept, rejudged = (
        answers.loc[rows.index[rows].sort_values()].reset_index(drop=True) for rows in (~other, judged_again)
    )
    return kept, rejudged


def _another_text(answers: pd.DataFrame, keys: pd.DataFrame, other: pd.Series) -> pd.Series:
    """Which rows of other judges are of another text than the answer that is kept under their key, by row of `keys`."""
    if not other.any():
        return other
    places = keys[ANSWER_KEY].assign(place=keys.index)
    pairs = places[other].merge(places[~other], on=ANSWER_KEY, suffixes=("", "_kept"))
    text, kept = (answers["answer"].loc[pairs[name]].to_numpy(object) for name in ("place", "place_kept"))
    unlike = [
        answer != first and SCORES_TEXT not in (answer, first) and answer.split() != first.split()
        for answer, first in zip(text, kept, strict=True)
    ]
    return pd.Series(keys.index.isin(pairs["place"][unlike]), keys.index)


def _several_judges(keys: pd.DataFrame, other: pd.Series, *, grid: bool) -> str:
    """Which judge of answers that several scored is taken, and why."""
    names = sorted(set(keys.loc[other, "judge"]))
    scored_by_several = f"{int(other.sum()):,} of {int((~other).sum()):,} answers were scored by more than one judge"
    taken = keys[~other].merge(
        keys.loc[other, [*ANSWER_KEY, "judge", "scored"]], on=ANSWER_KEY, suffixes=("", "_other")
    )
    of_those, why = sorted(set(taken["judge"])), "the judge that scored most"
    if grid:
        return (
            f"{scored_by_several}; rates are by the one that comes first on the grid's axis of judges "
            f"({_some(of_those)}); those by the others ({_some(names)}) stand beside them in the table by axes and in "
            "the comparison of judges."
        )
    tied = taken[taken["scored"] == taken["scored_other"]]
    if len(tied):
        ties = sorted(set(tied["judge"]) | set(tied["judge_other"]))
        why = (
            f"{_some(of_those)} ({_some(ties)} scored equally many, so that the first by name is taken; to have "
            "another leave its rivals' logs out)"
        )
        if len(tied) < len(taken):
            why = f"the judge that scored most, or {why}"
    return (
        f"{scored_by_several}; rates are by {why}; the scores of {_some(names)} stand in the comparison of judges and "
        "may correct rates beside these."
    )


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
