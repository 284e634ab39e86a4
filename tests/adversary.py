"""Attacks the project's entry functions with made-up input: `python -m tests.adversary --cases 20000 --seed 1`.

Every case ends in success or in one clear paragraph (`UserError`) within 10 seconds of processor time and 2 GB, and
changes nothing outside its output folder: an audit hook sees every file that is opened for writing, made, moved or
deleted, and every connection and process. The attacks are in `support/attacks/`, what they are made of in
`support/hostile.py`. Each kind of attack runs in a process of its own, which is ended if it hangs.
"""

import argparse
import contextlib
import gc
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from em_tasks.plugins.errors import UserError
from tests.support.attacks import KINDS
from tests.support.attacks.kind import Kind

SECONDS = 10.0
"""Of processor time, which other work on the machine does not use up."""
HANGING = 120.0
"""Seconds without an end of a case, after which it is looked whether its process still computes; where others take the
machine, it may have had next to no time."""
MOST = 60.0
"""Seconds of processor time without an end of a case, after which nothing is waited for."""
BYTES = 2 * 2**30
LONGEST_PARAGRAPH = 3000
"""Characters: a message that quotes more than that is not clear."""
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}
REACHES_OUT = {"socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}


@dataclass
class Result:
    """One kind's cases: how many, the bad ones (what was wrong, the case), seconds in all and for the slowest."""

    kind: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    bad: list[tuple[str, str]] = field(default_factory=list)


class TooLongError(BaseException):
    """A case took more than its time."""


@dataclass
class Watch:
    """What a case may write, and what it touched beside that."""

    allowed: tuple[str, ...] = ()
    on: bool = False
    touched: list[str] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """The audit hook."""
        if not self.on:
            return
        if event in REACHES_OUT:
            self.touched.append(f"{event} {str(arguments)[:200]}")
        elif event in CHANGES or (event == "open" and _writes(*arguments)):
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                if isinstance(path, str | bytes | os.PathLike):
                    whole = _from_folder(os.fsdecode(path), arguments[-1] if event != "open" else -1)
                    if not self._may_change(whole):
                        self.touched.append(f"{event} {whole!r}")

    def _may_change(self, path: str) -> bool:
        return os.path.realpath(path).startswith(self.allowed) or path == os.devnull


def _from_folder(path: str, folder: object) -> str:
    """The path, where it is counted from an open folder with that."""
    return (
        os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path) if isinstance(folder, int) and folder > 0 else path
    )


def _writes(path: object, mode: str | None, flags: int) -> bool:
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


WATCH = Watch()


def attack(kinds: list[Kind], cases: int, number: int) -> Iterator[Result]:
    """Runs `cases` cases in all, shared out by the kinds' weights, in one process a kind, and tells of each."""
    _import_once()
    sys.addaudithook(WATCH)
    weights = sum(kind.weight for kind in kinds)
    for kind in kinds:
        yield _in_a_process(kind, max(1, round(cases * kind.weight / weights)), number)


def _import_once() -> None:
    """Imports here what each kind's process would import when it first needs it, and keeps the collector off it."""
    import torch  # noqa: F401
    import transformers.models.auto.tokenization_auto  # noqa: F401
    from inspect_ai.model import get_model

    get_model("mockllm/model")  # Inspect looks through every installed package for what it registers.
    gc.collect()
    gc.freeze()


def _in_a_process(kind: Kind, cases: int, number: int) -> Result:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_run, args=(kind, cases, number, theirs))
    process.start()
    theirs.close()
    result = Result(kind.name)
    try:
        at_end, before = _processor_time(process.pid), 0.0
        while ours.poll(HANGING) or before < _processor_time(process.pid) - at_end < MOST:
            before = _processor_time(process.pid) - at_end
            if ours.poll():
                result = ours.recv()
                at_end, before = _processor_time(process.pid), 0.0
        result.bad.append((f"a case hung for {HANGING:.0f} s", ""))
    except EOFError:
        pass
    process.join(0 if process.is_alive() and result.bad else None)
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode:
        result.bad.append((f"the process ended with {process.exitcode}", ""))
    return result


def _processor_time(pid: int | None) -> float:
    """Seconds that a process has computed; 0 where it is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _run(kind: Kind, cases: int, number: int, results: Connection) -> None:
    result = Result(kind.name)
    warnings.simplefilter("ignore")
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        room = Path(folder).resolve()
        _confine(room)
        kind.prepare(room / "kept")
        resource.setrlimit(resource.RLIMIT_AS, (_in_use() + BYTES, resource.RLIM_INFINITY))
        signal.signal(signal.SIGPROF, _too_long)

        def case(content: Any) -> None:
            result.cases += 1
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                problem, seconds, refused = _case(kind, content, room)
            result.seconds += seconds
            result.slowest = max(result.slowest, seconds)
            result.refused += refused
            if problem is not None:
                result.bad.append((problem, repr(content)[:2000]))
            if problem is not None or seconds > 1 or result.cases % 50 == 0:
                results.send(result)

        run = settings(
            max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(kind.cases)(case))  # fmt: skip
        seed(number)(run)()
        results.send(result)


def _confine(room: Path) -> None:
    """Gives the process a home, a working folder and a folder for temporary files, all in the room."""
    for name in ("home", "here", "tmp", "kept"):
        (room / name).mkdir()
    os.environ.update(HOME=str(room / "home"), TORCHINDUCTOR_CACHE_DIR=str(room / "kept"))
    os.chdir(room / "here")
    tempfile.tempdir = str(room / "tmp")


def _case(kind: Kind, content: Any, room: Path) -> tuple[str | None, float, bool]:
    """What was wrong with a case, the processor time it took (seconds) and whether it was refused."""
    inputs, out = room / "in", room / "out"
    for place in (inputs, out):
        shutil.rmtree(place, ignore_errors=True)
    inputs.mkdir()
    try:
        given_path = kind.write(content, inputs, room / "kept")
    except (OSError, ValueError):
        return None, 0.0, False  # No file system holds this; nothing to attack.
    WATCH.allowed = (f"{out}{os.sep}", str(out), str(room / "tmp"))
    WATCH.touched.clear()
    before, started, problem, refused = _seen(room), time.process_time(), None, False
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with WATCH_ON():
            kind.attack(content, given_path, out)
    except UserError as error:
        refused, problem = True, _unclear(str(error))
    except TooLongError:
        problem = f"took more than {SECONDS:.0f} s"
    except Exception as error:
        where = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)]
        problem = f"{type(error).__name__}: {str(error)[:300]} ({' '.join(where[-4:])})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    seconds = time.process_time() - started
    if WATCH.touched:
        problem = f"touched what is not its own: {'; '.join(WATCH.touched[:3])}"
    elif _seen(room) != before:
        problem = "changed a file outside its output folder"
    elif left := list((room / "tmp").iterdir()):
        problem = f"left {left[0].name} behind"
    return problem, seconds, refused


@contextlib.contextmanager
def WATCH_ON() -> Iterator[None]:  # noqa: N802
    """While a case runs."""
    WATCH.on = True
    try:
        yield
    finally:
        WATCH.on = False


def _unclear(message: str) -> str | None:
    """What keeps a message from being one clear paragraph."""
    if not message.strip() or "\n\n" in message or len(message) > LONGEST_PARAGRAPH:
        return f"no paragraph: {len(message)} characters, {message[:200]!r}"
    if "Traceback" in message or "\x1b" in message or "\0" in message:
        return f"not for people: {message[:200]!r}"
    return None


def _seen(room: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file beside the output folder."""
    seen = {}
    for folder, folders, files in os.walk(room):
        folders[:] = [name for name in folders if folder != str(room) or name not in ("out", "tmp")]
        for name in files:
            about = os.lstat(os.path.join(folder, name))
            seen[os.path.join(folder, name)] = (about.st_size, about.st_mtime_ns)
    return seen


def _in_use() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TooLongError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--kind", action="append", choices=[kind.name for kind in KINDS], help="Only these.")
    parser.add_argument("--show", type=int, default=5, help="Bad cases to show of each kind.")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not options.kind or kind.name in options.kind]
    started = time.monotonic()
    print(f"{'kind':16} {'cases':>7} {'well':>7} {'refused':>8} {'bad':>5} {'seconds':>8} {'slowest':>8}")
    results, total = [], Result("all")
    for result in attack(kinds, options.cases, options.seed):
        results.append(result)
        _print_row(result)
        total.cases, total.refused = total.cases + result.cases, total.refused + result.refused
        total.seconds, total.slowest = total.seconds + result.seconds, max(total.slowest, result.slowest)
        total.bad += result.bad
    _print_row(total)
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")
    for result in results:
        for problem, content in result.bad[: options.show]:
            print(f"\n{result.kind}: {problem}\n  {content}")
    sys.exit(any(result.bad for result in results))


def _print_row(result: Result) -> None:
    well = result.cases - result.refused - len(result.bad)
    counts = f"{result.cases:7} {well:7} {result.refused:8} {len(result.bad):5}"
    print(f"{result.kind:16} {counts} {result.seconds:8.1f} {result.slowest:8.2f}", flush=True)


if __name__ == "__main__":
    main()
