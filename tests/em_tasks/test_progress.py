import re

import pytest

from em_tasks.grid.run import Standing
from em_tasks.progress import grid_progress, training_progress
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


STANDING = Standing(
    {"train": 12, "evaluate": 3, "judge": 2},
    {"train": 12, "evaluate": 1},
    {
        "evaluate": "smollm2-135m into logs/bare/smollm2-135m: 151 of 1,560 answers, 140 judged",
        "judge": f"by emlocal/smollm2-gpt4o-3 into bare: log 3 of 12 {'x' * 60}",
    },
    ["train a: begun", "evaluate \x1b[2Jtoy-s: failed: it broke"],
)


@pytest.mark.parametrize("width", [110, 80])
def test_a_grids_lines_keep_their_bars_and_counts_and_cut_the_news(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with grid_progress() as tell:
        tell(STANDING)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).splitlines()
    train, evaluate, judge = [line for line in shown if line.strip()][-3:]
    assert all(len(line) <= width for line in (train, evaluate, judge))
    bar = "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 20
    assert train.strip() == f"train    {bar} 12/12"
    begins = "smollm2-135m into logs/bare/smollm2-135m: 151 of 1,560 answers, 140 judged"
    news = evaluate.partition(" 1/3 ")[2].strip()
    assert news.rstrip("\N{HORIZONTAL ELLIPSIS}") == begins[: len(news) - (width == 80)]
    assert len(news) > width - 45
    assert "by emlocal/smollm2-gpt4o-3 into bare: log" in judge.partition(" 0/2 ")[2]
    assert judge.rstrip().endswith("\N{HORIZONTAL ELLIPSIS}")


def test_a_grid_without_a_terminal_has_a_plain_line_for_each_beginning_and_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with grid_progress() as tell:
        tell(STANDING)
        lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["train a: begun", r"evaluate \x1b[2Jtoy-s: failed: it broke"]
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d", line.partition(" ")[0]) for line in lines)


def test_nothing_is_drawn_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress():
        assert capsys.readouterr().err == ""
