"""What a grid copies to its store, and when: runs as they are saved, logs as they are judged, at the end the report."""

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType

from em_tasks.grid.budget import raise_spent
from em_tasks.grid.plan import GridPlan
from em_tasks.grid.store import FETCHED, Piece, Store, StoreError
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.cost import spent_on_judging
from em_tasks.sweep.logs import Logs, is_judged, read_logs
from em_tasks.trainers.loop.stopping import Stopped
from em_tasks.trainers.run.checkpoints import checkpoint_folder
from em_tasks.trainers.run.folder import alone, manifest_for, state_folder
from em_tasks.trainers.run.manifest import MANIFEST, Manifest, read_manifest, write_manifest

LOOK_AGAIN = 10.0
"""Seconds between two looks at what is finished, where no unit ended."""
LAST_TRIES = (0.0, 2.0, 10.0)
"""Seconds waited before each try at the end."""
MOST_FAILURES = 3
"""A look ends early after so many: each may have waited for a server that is gone."""


def fetch(store: Store, plan: GridPlan) -> int:
    """Fetches what is in the store and not here; a run that is further here stays as it is.

    Returns:
        How many files were fetched.

    Raises:
        UserError: Another recipe's run goes by an organism's name there, a run was trained here and elsewhere at once,
            another process is training it, or what is there is not what was put there.
    """
    runs = {name.partition("/")[2]: marker for name, marker in store.markers.items() if marker.manifest is not None}
    for organism, marker in runs.items():
        if organism in plan.organisms and marker.manifest is not None:
            manifest_for(plan.organisms[organism], marker.manifest, f"{store.url}/runs/{organism}")
    fetched = 0
    for name, marker in sorted(store.markers.items()):
        if marker.manifest is not None:
            fetched += _fetch_run(store, name, marker.manifest, plan.out)
        elif name == plan.judge_cost.name:
            raise_spent(plan.judge_cost, marker.spent)
        elif name != plan.report.name and not (plan.out / name).exists():
            fetched += store.get(name, plan.out)
    shutil.rmtree(plan.out / FETCHED, ignore_errors=True)
    return fetched


def _fetch_run(store: Store, name: str, there: Manifest, out: Path) -> int:
    run = out / name
    if (run / MANIFEST).is_file():
        try:
            here = read_manifest(run)
        except UserError:  # The grid names it and leaves the organism out; the others go on.
            return 0
        adapters = {record.step: record.adapter_sha256 for record in here.checkpoints}
        for record in there.checkpoints:
            if adapters.get(record.step, record.adapter_sha256) != record.adapter_sha256:
                raise UserError(
                    f"{run} and {store.url}/{name} were both trained, and their checkpoints at step {record.step} "
                    "differ. Move the run away to go on with that of the store, or remove what the store has of it, "
                    f"{store.marker(name)} first, to go on with this one."
                )
        if here.resumes_at >= there.resumes_at:
            return 0
    with alone(run):
        count = store.get(name, out)
        write_manifest(run, there)
    return count


def pieces(plan: GridPlan, before: dict[Path, Logs], sent: Mapping[str, Piece], *, reported: bool) -> Iterator[Piece]:
    """What of a grid is finished now.

    Args:
        plan: The grid.
        before: What an earlier look read of the logs; it is brought up to date.
        sent: What is copied. Runs that were not saved since are not looked at again: there may be thousands.
        reported: Whether the report is written.
    """
    for path in sorted(plan.runs.glob(f"*/{MANIFEST}")):
        before_it = sent.get(path.parent.relative_to(plan.out).as_posix())
        if before_it is not None and before_it.saved == path.stat().st_mtime_ns:
            continue
        try:
            piece = run_piece(path.parent, plan.out)
        except UserError:  # A damaged manifest: the grid names it.
            continue
        if piece is not None:
            yield piece
    for folder in (plan.logs, plan.judged):
        logs = before[folder] = read_logs(folder, before.get(folder))
        for path, log in logs.headers.items():
            if log.status == "success" and is_judged(log):
                yield piece_of([path], path, plan.out)
    if spent := spent_on_judging(plan.judge_cost):
        yield Piece(plan.judge_cost.name, {}, spent=spent)
    if reported and plan.report.is_dir():
        yield piece_of([path for path in plan.report.rglob("*") if path.is_file()], plan.report, plan.out)


def run_piece(run: Path, out: Path) -> Piece | None:
    """A run as its manifest stands: checkpoints, and the state that it goes on from; None if it changes just now."""
    saved = (run / MANIFEST).stat().st_mtime_ns
    manifest = read_manifest(run)
    folders = [checkpoint_folder(run, record.step) for record in manifest.checkpoints]
    folders += [state_folder(run, manifest.resumes_at)] if manifest.resumes_at else []
    try:
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        piece = replace(piece_of(files, run, out), manifest=manifest, saved=saved)
    except FileNotFoundError:
        return None
    # A save writes the manifest first and then takes the older state away, perhaps while it was listed.
    return piece if manifest.checkpoints and read_manifest(run) == manifest else None


def piece_of(files: list[Path], whole: Path, out: Path, manifest: Manifest | None = None, spent: float = 0.0) -> Piece:
    """These files as a piece."""
    looks = {path.relative_to(out).as_posix(): path.stat() for path in sorted(files)}
    return Piece(
        whole.relative_to(out).as_posix(),
        {path: (look.st_size, look.st_mtime_ns) for path, look in looks.items()},
    )


@dataclass
class Copying:
    """Copies to a store, in a thread, what is finished while a grid's units are at work; a context manager.

    Attributes:
        plan: The grid.
        store: Where to.
        warn: Told in the thread, once for each reason, that a copy did not succeed. It is tried again.
        failures: What is not there at the end.
    """

    plan: GridPlan
    store: Store
    warn: Callable[[str], None]
    failures: list[str] = field(default_factory=list)
    _sent: dict[str, Piece] = field(default_factory=dict)
    _logs: dict[Path, Logs] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)
    _look: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def soon(self) -> None:
        """Has it look now: a unit ended."""
        self._look.set()

    def __enter__(self) -> "Copying":
        """Begins."""
        self._thread = threading.Thread(target=self._keep_copying, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Copies what is left; once, where the machine may be about to go."""
        self._over.set()
        self._look.set()
        if self._thread is not None:
            self._thread.join()
        for wait in LAST_TRIES[:1] if isinstance(error, Stopped) else LAST_TRIES:
            self._look.clear()
            self._look.wait(wait)
            self.failures = self.copy(reported=kind is None)
            if not self.failures:
                return

    def _keep_copying(self) -> None:
        while not self._over.is_set():
            for failure in self.copy(reported=False):
                if failure not in self._warned:
                    self._warned.add(failure)
                    self.warn(f"{failure} It is here still, and copying it is tried again.")
            self._look.wait(LOOK_AGAIN)
            self._look.clear()

    def copy(self, *, reported: bool) -> list[str]:
        """Copies what is finished and not in the store yet; returns what went wrong."""
        failures: list[str] = []
        try:
            for piece in pieces(self.plan, self._logs, self._sent, reported=reported):
                if self._sent.get(piece.name) == piece or len(failures) == MOST_FAILURES:
                    continue
                try:
                    if self.store.put(piece, self.plan.out, partial(self._is_still, piece)):
                        self._sent[piece.name] = piece
                except (StoreError, OSError) as error:
                    # Of a run that was saved meanwhile an older state is gone, and the next look takes the new one.
                    if self._is_still(piece):
                        failures.append(f"{piece.name} was not copied: {error}")
        except (UserError, OSError) as error:
            failures.append(f"What is finished was not looked through: {error}")
        return failures

    def _is_still(self, piece: Piece) -> bool:
        """Whether a piece is what it was when its copying began."""
        out = self.plan.out
        try:
            if piece.manifest is not None:
                return run_piece(out / piece.name, out) == piece
            paths = [out / path for path in piece.files]
            return replace(piece_of(paths, out / piece.name, out), spent=piece.spent) == piece
        except OSError:
            return False
