"""Several logs read at a time: Python processes of our own that take the names of logs and give back their rows.

multiprocessing would run the user's script again in every process; these run this module and nothing else, so a script
without a main guard, a notebook and a test are all safe.
"""

import contextlib
import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from em_tasks.plugins.analysis.answers.log_rows import LogToRead, Tally, read_rows
from em_tasks.plugins.errors import UserError

WORTH_A_PROCESS = 40_000_000
"""Bytes of logs that one process reads in about the time it takes to start another one."""

Rows = tuple[list[pa.RecordBatch], Tally]
"""What `log_rows.read_rows` gives of one log."""


@contextlib.contextmanager
def log_processes(files: Sequence[Path]) -> Iterator[Callable[[LogToRead], Future[Rows]]]:
    """Reads logs side by side while the block runs, as many as there are processors; few or small ones one by one.

    Args:
        files: The logs that may be read.

    Yields:
        What starts to read a log, see `log_rows.read_rows`; the future raises ChildProcessError if the process died
        over it.
    """
    size = sum(file.stat().st_size for file in files)
    count = min(_processors(), len(files), size // WORTH_A_PROCESS)
    if count < 2 or not sys.executable:
        yield _read_here
        return
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        for _ in range(count):
            idle.put(stack.enter_context(_process()))
        pool = stack.enter_context(ThreadPoolExecutor(count))
        # What is still waiting is not worth reading once the block has failed.
        stack.callback(pool.shutdown, cancel_futures=True)

        def read(log: LogToRead) -> Rows:
            process = idle.get()
            try:
                return _read_there(process, log)
            finally:
                idle.put(process)

        yield lambda log: pool.submit(read, log)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _read_here(log: LogToRead) -> Future[Rows]:
    batches: list[pa.RecordBatch] = []
    done: Future[Rows] = Future()
    done.set_result((batches, read_rows(log, batches.append)))
    return done


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    # -P: not a module that happens to lie in the current folder. The path is the one that this process imports from.
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    with subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _read_there(process: subprocess.Popen[bytes], log: LogToRead) -> Rows:
    assert process.stdin is not None
    assert process.stdout is not None
    batches: list[pa.RecordBatch] = []
    try:
        pickle.dump(log, process.stdin)
        process.stdin.flush()
        while not isinstance(answer := pickle.load(process.stdout), Tally):
            batches.append(answer)
    except (EOFError, OSError, pickle.UnpicklingError) as error:
        raise UserError(
            f"The process that read {log.file} ended with code {process.wait()}. Is memory short? Report fewer logs "
            "at a time."
        ) from error
    return batches, answer


def _serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Reads the logs that are asked for, until no one can ask any more."""

    def answer(part: pa.RecordBatch | Tally) -> None:
        pickle.dump(part, answers, protocol=pickle.HIGHEST_PROTOCOL)

    while True:
        try:
            log = pickle.load(questions)
        except EOFError:
            return
        answer(read_rows(log, answer))
        answers.flush()


if __name__ == "__main__":
    gc.disable()  # nothing here makes cycles, and looking for them takes a tenth of the time
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted too, and ends this process
    _serve(sys.stdin.buffer, sys.stdout.buffer)
