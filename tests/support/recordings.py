"""Recorded passes without a GPU: a recording is the function itself, and a clock says how long passes take."""

from collections.abc import Callable

import pytest

from em_tasks.trainers.passes import captured


def on_the_clock(monkeypatch: pytest.MonkeyPatch, replay: float) -> captured.Record:
    """A recording that is the function itself, and a clock that says how long: launched 1, replayed as given."""
    time = [0.0]

    def now(device: str) -> float:
        time[0] += 1
        return time[0]

    def record(run: Callable[[], None]) -> Callable[[], None]:
        def replayed() -> None:
            time[0] += replay - 1
            run()

        return replayed

    monkeypatch.setattr(captured, "now", now)
    monkeypatch.setattr(captured, "cuda_record", lambda: record)
    return record
