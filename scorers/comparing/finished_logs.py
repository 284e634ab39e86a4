"""Logs that other commands wrote, found and read without one bad file ending the work: bad ones are skipped and named.

Changed copies are written aside and moved into place, so a copy that is there is whole, and a command that was stopped
goes on where it was.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from inspect_ai.log import EvalLog, EvalLogInfo, list_eval_logs, read_eval_log, write_eval_log

from em_tasks.plugins.errors import UserError

UNFINISHED = ".unfinished"
"""Folder beside the copies in which they are written."""


@dataclass
class FinishedLogs:
    """The readable logs among what was given.

    Attributes:
        sources: Where they are, in a fixed order.
        skipped: What was left out: a path and why, a line each.
    """

    sources: list[str]
    skipped: list[str] = field(default_factory=list)


def find_logs(paths: Sequence[str | Path]) -> list[str]:
    """Every Inspect log among files and folders (folders with everything below them), in a fixed order.

    Raises:
        UserError: A path is not there, or there is no log at all.
    """
    places: list[str] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"There is nothing at {path}. Give an Inspect log or a folder that holds some.")
        places += [str(path)] if path.is_file() else sorted(map(_local, list_eval_logs(str(path))))
    places = [place for place in places if f"/{UNFINISHED}/" not in place]
    if not places:
        where = ", ".join(map(str, paths))
        raise UserError(f"There is no Inspect log (*.eval) in {where}. Run an evaluation first (`em sweep`).")
    return list(dict.fromkeys(places))


def _local(info: EvalLogInfo) -> str:
    """A listed log's path, which Inspect gives as an address."""
    return url2pathname(urlsplit(info.name).path) if info.name.startswith("file:") else info.name


def finished_logs(
    paths: Sequence[str | Path],
    unusable: Callable[[EvalLog], str | None] = lambda log: None,
    *,
    may_be_none: bool = False,
) -> FinishedLogs:
    """The logs that can be read to their last sample; others are skipped and named.

    Args:
        paths: Log files or folders.
        unusable: Why a readable log is of no use here; None if it is of use.
        may_be_none: Whether it is no error that none of them can be used.

    Raises:
        UserError: A path is not there, there is no log, or none of them can be used.
    """
    finished = FinishedLogs([])
    for source in find_logs(paths):
        why = _why_not(source, unusable, _state(source))
        if why is None:
            finished.sources.append(source)
        else:
            finished.skipped.append(f"{source}: {why}")
    if not (finished.sources or may_be_none):
        more = f" and {len(finished.skipped) - 3} more" if len(finished.skipped) > 3 else ""
        raise UserError(f"No log can be used. {'; '.join(finished.skipped[:3])}{more}.")
    return finished


def _state(source: str) -> tuple[int, int] | None:
    """What tells a file's content from an earlier one; None where it is no ordinary file."""
    if not Path(source).is_file():
        return None
    status = Path(source).stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=10_000)
def _why_not(source: str, unusable: Callable[[EvalLog], str | None], state: tuple[int, int] | None) -> str | None:
    """Kept: a command looks at its logs, says what judging them will cost, and judges them, each by the same files."""
    if state is None:
        return "it is no ordinary file"
    try:
        log = read_eval_log(source)
    except Exception as error:  # whatever a damaged file makes of the readers: zip, JSON, missing members, schemas
        kind = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        return f"it is damaged, empty or half-written ({kind})"
    if log.status == "started":
        return "its evaluation was never finished (run the same evaluation again, which goes on with it)"
    if not log.samples:
        return "it holds no answers"
    return unusable(log)


def new_places(sources: Sequence[str], out: Path) -> list[Path]:
    """Where the changed copies go.

    Raises:
        UserError: Two logs of one name would go to one place.
    """
    places = [out / Path(source).name for source in sources]
    for place in places:
        if places.count(place) > 1:
            same = [source for source, other in zip(sources, places, strict=True) if other == place]
            raise UserError(f"{' and '.join(same)} have one name. Give them one folder at a time, each its own --out.")
    return places


def is_done(target: Path, eval_id: str, same: Callable[[EvalLog], bool]) -> bool:
    """Whether a copy is there already from an earlier start of the same command.

    Args:
        target: Where the copy goes.
        eval_id: The evaluation that it is a copy of.
        same: Whether a copy of that evaluation was made by the same command.

    Raises:
        UserError: Something else is there; logs are never overwritten.
    """
    if not target.exists():
        return False
    try:
        there = read_eval_log(str(target), header_only=True)
    except Exception:
        there = None
    if there is not None and there.eval.eval_id == eval_id and same(there):
        return True
    raise UserError(f"{target} is already there and logs are not overwritten. Choose another output folder.")


def write_copy(log: EvalLog, target: Path) -> None:
    """Writes a log aside and moves it into place."""
    aside = target.parent / UNFINISHED / target.name
    aside.parent.mkdir(parents=True, exist_ok=True)
    write_eval_log(log, str(aside))
    aside.replace(target)
    if not any(aside.parent.iterdir()):
        aside.parent.rmdir()
