"""Work in processes of their own, that end with whoever started them and do not take each other along.

Each piece of work is one spawned process in a process group of its own, and a pipe on which it reports. A process that
is killed (by the system for memory, say) is the failure of its own work alone. A process whose parent is gone, however
that died, ends its whole group at once.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from em_tasks.collecting import collect_rarely
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.loop.stopping import SIGNALS, Stopped
from em_tasks.trainers.run.disk import NO_ROOM

Send = Callable[[Any], None]
PATIENCE = 10.0
"""Seconds that a process is given to end by itself before it is killed."""


@dataclass(frozen=True)
class Work:
    """One process's work.

    Attributes:
        name: What it does, for messages.
        function: Called in the process with `arguments` and then a function that reports to the parent.
        arguments: Picklable.
        alone: It waits until all slots of one environment are free, and takes them all.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    alone: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a piece of work ended: with a result, or with an error in words."""

    work: Work
    result: Any = None
    error: str | None = None


@dataclass
class _Running:
    work: Work
    process: BaseProcess
    pipe: Connection
    slots: list[int]
    outcome: Outcome | None = None
    last: Any = None


@dataclass
class Pool:
    """Runs work, as many processes at a time as there are slots.

    Attributes:
        slots: The environment of each slot's processes, such as the GPU that they see.
        report: Called with everything that a process reports.
    """

    slots: Sequence[dict[str, str]]
    report: Callable[[Any], None]
    _running: list[_Running] = field(default_factory=list)

    def run(self, works: Sequence[Work], more: Callable[[Sequence[Outcome]], Sequence[Work] | None]) -> list[Outcome]:
        """Runs work in order, and what comes while it runs.

        Args:
            works: What there is to do.
            more: Asked at least once a second, with what has ended since: what else there is to do, or None if nothing
                will ever come.

        Returns:
            How each piece of work ended.

        Raises:
            Stopped: SIGINT or SIGTERM came. Every process has ended by then.
        """
        waiting, outcomes = list(works), list[Outcome]()
        with signals_stop():
            try:
                while True:
                    while waiting and (slots := self._slots_for(waiting[0])):
                        self._start(waiting.pop(0), slots)
                    ended = list(self._listen())
                    outcomes += ended
                    coming = more(ended)
                    waiting += coming or ()
                    if coming is None and not waiting and not self._running:
                        return outcomes
            finally:
                self._end()

    def _slots_for(self, work: Work) -> list[int]:
        """The free slots that a piece of work would take now; none where it has to wait, and all behind it with it."""
        taken = {slot for each in self._running for slot in each.slots}
        free = [slot for slot in range(len(self.slots)) if slot not in taken]
        if not work.alone:
            return free[:1]
        alike = [[slot for slot, other in enumerate(self.slots) if other == each] for each in self.slots]
        return next((slots for slots in alike if set(slots) <= set(free)), [])

    def _start(self, work: Work, slots: list[int]) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        arguments = (work.function, work.arguments, theirs, self.slots[slots[0]])
        process = context.Process(target=_work, args=arguments, name=work.name, daemon=False)
        process.start()
        theirs.close()
        self._running.append(_Running(work, process, ours, slots))

    def _listen(self) -> Iterator[Outcome]:
        pipes = [each.pipe for each in self._running]
        if not pipes:
            return
        ready = wait(pipes, timeout=1.0)
        for each in [running for running in self._running if running.pipe in ready]:
            try:
                kind, content = each.pipe.recv()
            except (EOFError, OSError):  # It ended, or died in the middle of a message.
                each.process.join()
                self._running.remove(each)
                each.pipe.close()
                _end_group(each.process, signal.SIGKILL)  # What it may have started.
                yield each.outcome or Outcome(each.work, error=_death(each))
                continue
            if kind == "report":
                each.last = content
                self.report(content)
            else:
                each.outcome = Outcome(each.work, **{kind: content})

    def _end(self) -> None:
        """Ends what still runs: first by asking."""
        for each in self._running:
            _end_group(each.process, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        for each in self._running:
            each.process.join(max(0.0, deadline - time.monotonic()))
            _end_group(each.process, signal.SIGKILL)
            each.process.join()
            each.pipe.close()
        self._running.clear()


def _end_group(process: BaseProcess, number: int) -> None:
    """Signals a process and all that it started, as far as it is still there."""
    with suppress(ProcessLookupError, PermissionError, TypeError):
        os.killpg(process.pid, number)  # type: ignore[arg-type]
    with suppress(ProcessLookupError, TypeError):
        if process.is_alive():
            os.kill(process.pid, number)  # type: ignore[arg-type]


def _death(running: _Running) -> str:
    code = running.process.exitcode or 0
    done = f" Its last word: {running.last}." if running.last is not None else ""
    if code == -signal.SIGKILL:
        return (
            f"{running.work.name}: its process was killed (SIGKILL), as the system does when memory is full.{done} "
            "Give it less to do at a time (-j 1, a smaller batch), or free memory."
        )
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"{running.work.name}: its process ended {how} before it was done.{done}"


def _work(
    function: Callable[..., Any], arguments: tuple[Any, ...], pipe: Connection, environment: dict[str, str]
) -> None:
    """The process: does its work, tells how it ended, and never outlives its parent."""
    os.setpgid(0, 0)
    collect_rarely()
    os.environ.update(environment)
    # Ctrl-C is the parent's to handle; it asks by SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, name="em-parent", daemon=True).start()
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock:
            pipe.send((kind, content))

    try:
        send("result", function(*arguments, lambda content: send("report", content)))
    except UserError as error:
        send("error", str(error))
    except OSError as error:
        send("error", _no_room(error) or (str(error) if error.errno is not None else traceback.format_exc()))
    except Stopped as stopped:
        raise SystemExit(stopped.exit_code) from None
    except Exception as error:
        send("error", _no_room(error) or traceback.format_exc())
    pipe.close()


def _no_room(error: BaseException) -> str | None:
    """What to tell where a full disk is at the bottom of an error, whatever libraries made of it on the way."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if isinstance(link, OSError) and link.errno in NO_ROOM:
            return f"The disk is full, or a quota is reached: free some space. {link}"
        seen.append(link)
        link = link.__cause__ or link.__context__
    return None


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


@contextmanager
def signals_stop() -> Iterator[None]:
    """Has SIGINT and SIGTERM raise `Stopped` in the main thread, so that processes are ended in order."""
    stopped: list[Stopped] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.append(
            Stopped("Stopped. The same command goes on where this stopped: answers that came are kept.", number)
        )
        raise stopped[0]

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            # A signal that whoever started the program had it ignore (nohup) stays ignored.
            if callable(signal.getsignal(number)) or signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        # Ray raises a plain one in place of whatever a signal raised while Ray was waiting.
        if stopped and not isinstance(error, Stopped):
            raise stopped[0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
