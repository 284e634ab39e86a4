import pytest

from em_tasks.progress import training_progress
from em_tasks.trainers.loop.progress import Progress


def step(organism: str, step: int, peak_memory: int | None) -> Progress:
    return Progress(organism, step, 40, 0.25, 12_345.6, 65.2, peak_memory)


def test_bars_tell_loss_speed_memory_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with training_progress() as report:
        report(step("on-gpu", 5, None))
        report(step("on-gpu", 10, 3 * 2**30))
        report(step("on-cpu", 40, None))
    on_gpu, on_cpu = (line.rstrip() for line in capsys.readouterr().err.splitlines()[-2:])
    assert on_gpu.endswith("10/40 loss 0.250  12,346 tokens/s  3.0 GiB  0:01:05 left")
    assert on_cpu.endswith("40/40 loss 0.250  12,346 tokens/s  0:01:05 left")


def test_nothing_is_drawn_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress():
        assert capsys.readouterr().err == ""
