"""Units of work: train a run, evaluate what has landed of a base, judge again, report.

Each can be done twice, and goes on where it was interrupted; each says what it needs of a GPU.
"""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from em_tasks.collecting import collect_rarely
from em_tasks.grid.places import project_sha256
from em_tasks.plugins.analysis.answers.grid_cells import GridCells
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.safe_names import file_name
from em_tasks.quiet import quiet_libraries
from em_tasks.sweep.plan import Job
from em_tasks.trainers.run.disk import NO_ROOM
from em_tasks.trainers.run.recipe import Recipe

if TYPE_CHECKING:
    from em_tasks.trainers.loop.progress import Progress

T = TypeVar("T")
LOG, NOW = ".log", ".now"
MADE_OF = ".made_of"
"""File beside a report with the hash of all that it was made of."""
PATIENCE = 120.0
"""Seconds that a run's lock is waited for: a node that died holds it until the others notice."""
WHOLE = 1.0
GPU_STEPS = 100
"""Shares of a GPU come in hundredths, as Ray's do."""
MOMENT = "%Y-%m-%d %H:%M:%S"


class Unit(Protocol):
    """A unit of work, which can be pickled."""

    @property
    def name(self) -> str:
        """What it does, for people; its own among the units of a grid."""

    @property
    def gpu(self) -> float:
        """How much of a GPU it takes where there are GPUs: 0 to 1."""

    @property
    def threads(self) -> int:
        """CPU threads."""

    def work(self, say: Callable[[str], None]) -> list[str]:
        """Does it, and gives a line for everything that failed; `say` hears how far it is."""


@dataclass(frozen=True)
class Train:
    """Trains one organism, or goes on with it, unless its data is not what the grid was planned with (SHA-256)."""

    recipe: Recipe
    runs: Path
    gpu: float = WHOLE
    threads: int = 1
    data: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """`train ORGANISM`."""
        return f"train {self.recipe.organism}"

    def work(self, say: Callable[[str], None]) -> list[str]:
        """Trains."""
        import torch

        from em_tasks.trainers.train import train

        torch.set_num_threads(self.threads)
        _once_free(lambda: train(self.recipe, self.runs, lambda progress: say(_at(progress)), planned=self.data))
        return []


@dataclass(frozen=True)
class TrainTogether:
    """Trains several organisms of one base at once, or goes on with them, on a GPU of their own; `data` as above."""

    recipes: tuple[Recipe, ...]
    runs: Path
    threads: int = 1
    gpu: float = WHOLE
    data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`train ORGANISM, ORGANISM together`."""
        return f"train {', '.join(recipe.organism for recipe in self.recipes)} together"

    def work(self, say: Callable[[str], None]) -> list[str]:
        """Trains; who ended early without having failed is named."""
        import torch

        from em_tasks.trainers.together.train import train_together

        torch.set_num_threads(self.threads)
        manifests = _once_free(
            lambda: train_together(
                self.recipes,
                self.runs,
                lambda progress: say(f"{progress.organism}: {_at(progress)}"),
                planned=self.data,
            )
        )
        return [
            f"{manifest.recipe.organism} was stopped after step {manifest.resumes_at} of {manifest.planned[-1]}"
            for manifest in manifests
            if not manifest.finished
        ]


def _once_free(train: Callable[[], T]) -> T:
    """Trains as soon as no other process does."""
    from em_tasks.trainers.run.folder import RunInUseError

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return train()
        except RunInUseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _at(progress: "Progress") -> str:
    return f"step {progress.step} of {progress.total_steps}, loss {progress.loss:.3f}"


@dataclass(frozen=True)
class Evaluate:
    """Asks a base and the checkpoints over it that have landed, and has the answers judged."""

    job: Job
    gpu: float = WHOLE

    @property
    def name(self) -> str:
        """`evaluate BASE`, with the folder of its logs."""
        return f"evaluate {self.job.base.removesuffix('@base')} into {'/'.join(self.job.logs.parts[-3:])}"

    @property
    def threads(self) -> int:
        """Those of the job."""
        return self.job.threads

    def work(self, say: Callable[[str], None]) -> list[str]:
        """Evaluates."""
        from em_tasks.sweep.evaluate import evaluate

        return evaluate(self.job, lambda progress: say(progress.note or progress.of(self.job.answers)))


@dataclass(frozen=True)
class JudgeAgain:
    """Has further judges judge the answers of finished logs."""

    logs: tuple[Path, ...]
    judges: tuple[str, ...]
    out: Path
    price: str | None = None
    max_cost: float | None = None
    ledger: Path | None = None
    cap: float | None = None
    gpu: float = 0.0
    threads: int = 1

    @property
    def name(self) -> str:
        """`judge by JUDGES`, with the folder of the new logs."""
        return f"judge by {', '.join(self.judges)} into {self.out.name}"

    def work(self, say: Callable[[str], None]) -> list[str]:
        """Judges; a judge that failed at some answers, or gave no number at all, is named."""
        from em_tasks.scorers.comparing.judging_again import missing_in, together
        from em_tasks.scorers.comparing.ratings import folder_name, judge_logs
        from em_tasks.scorers.judging.calls import JudgeCalls
        from em_tasks.sweep.failures import what_is_missing
        from em_tasks.sweep.logs import alone_in

        calls = JudgeCalls.limited(self.max_cost, self.price, self.judges, self.ledger, self.cap)
        numbers = count(1)

        def at(judge: str, log: str) -> None:
            who = f" by {judge}" if len(self.judges) > 1 else ""
            say(f"log {next(numbers)} of {len(self.logs) * len(self.judges)}{who}")

        # Units of organisms that share a base have its log in common, and some of their judges.
        with alone_in(self.out, say):
            written = judge_logs(self.logs, self.judges, self.out, on_log=at, calls=calls)
        failures = []
        for judge, paths in written.items():
            missing = together([missing_in(path) for path in paths])
            where = self.out / folder_name(judge)
            if what := what_is_missing(missing, judge, where, silent=not missing.scored):
                failures.append(what)
            elif missing.example:
                of = f"{missing.unscored.total():,} of {missing.answers:,} answers"
                print(f"{where}: {judge} gave {of} no score: {missing.example!r}, for example")
        return failures


@dataclass(frozen=True)
class Report:
    """Makes tables, figures and the report of what was judged, of all logs or of those of a grid's cells alone."""

    logs: tuple[Path, ...]
    out: Path
    study: Path | None = None
    notes: tuple[str, ...] = ()
    cells: GridCells | None = None
    gpu: float = 0.0
    threads: int = 1

    @property
    def name(self) -> str:
        """`report`."""
        return "report"

    def work(self, say: Callable[[str], None]) -> list[str]:
        """Reports."""
        from em_tasks.plugins.analysis.report.report import write_report
        from em_tasks.scorers.calibration.stored import known_calibration

        made_of = self.made_of()
        written = write_report(
            self.logs,
            self.out,
            calibration=known_calibration(),
            study=self.study,
            notes=self.notes,
            cells=self.cells,
        )
        (self.out / MADE_OF).write_text(made_of, encoding="ascii")
        say(f"{len(written.paths)} files")
        return []

    def made_of(self) -> str:
        """Hash of all that decides what the report says: logs as they are now, study, cells, calibrations, project."""
        from em_tasks.scorers.calibration.stored import calibration_folder

        files = [path for folder in self.logs for path in folder.rglob("*.eval")]
        files += [*calibration_folder().glob("*"), *([self.study] if self.study else [])]
        looks = [(str(path), look.st_size, look.st_mtime_ns) for path in sorted(files) for look in [path.stat()]]
        content = (looks, self.notes, self.cells, self.study, project_sha256())
        return sha256(repr(content).encode()).hexdigest()

    @property
    def is_written(self) -> bool:
        """Whether the report is there and nothing changed since."""
        made_of = self.out / MADE_OF
        there = made_of.is_file() and (self.out / "report.html").is_file()
        return there and made_of.read_text(encoding="ascii") == self.made_of()


def do(unit: Unit, folder: Path) -> str | None:
    """Does a unit in this process, whatever it prints going to a file of its own.

    Args:
        unit: What to do.
        folder: Receives `<unit>.log`, and while it works `<unit>.now`, which says how far it is.

    Returns:
        What went wrong, with the name of the file that tells more; None if nothing did.

    Raises:
        Stopped: The process was asked to end.
    """
    collect_rarely()
    quiet_libraries()
    log, now = (place_of(unit, folder, suffix) for suffix in (LOG, NOW))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8", errors="backslashreplace") as file:
            with redirect_stdout(file), redirect_stderr(file):
                gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
                where = gethostname() if gpus is None else f"{gethostname()}, GPU {gpus or 'none'}"
                print(f"{time.strftime(MOMENT)} {unit.name}: begun on {where}", flush=True)
                told = _Told(now)
                told("begun")
                failures = _failures(unit, told)
            print(f"{time.strftime(MOMENT)} {unit.name}: {'; '.join(failures) or 'done'}", file=file)
    except OSError as error:
        failures = [_refused(error)]
    finally:
        with suppress(OSError):
            now.unlink(missing_ok=True)
    return f"{unit.name}: {'; '.join(failures)} (its log: {log})" if failures else None


def place_of(unit: Unit, folder: Path, suffix: str) -> Path:
    """A unit's file in the folder of units."""
    return folder / f"{file_name(unit.name)}{suffix}"


def _failures(unit: Unit, say: Callable[[str], None]) -> list[str]:
    try:
        return unit.work(say)
    except UserError as error:
        return [str(error)]
    except OSError as error:
        traceback.print_exc()
        return [_refused(error)]
    except Exception as error:
        traceback.print_exc()
        return [f"{type(error).__name__}: {error}"]


def _refused(error: OSError) -> str:
    return f"the disk is full, or a quota is reached ({error})" if error.errno in NO_ROOM else str(error)


class _Told:
    """Keeps the last word in a file, a few times a second at most: every executor's driver can read it."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0.0

    def __call__(self, text: Any) -> None:
        if time.monotonic() - self._at > 0.5:
            self._at = time.monotonic()
            new = self._path.with_name(f"{self._path.name}.new")
            with suppress(OSError):
                new.write_text(str(text), encoding="utf-8", errors="backslashreplace")
                new.replace(self._path)
