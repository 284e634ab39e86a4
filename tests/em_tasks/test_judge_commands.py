"""`em calibrate`, `em judge`, `em rescore` and a sweep's cap on costs, as a user calls them."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from em_tasks.commands.cli import cli
from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.claims.trusted_rates import EVERY, trusted_rates
from em_tasks.plugins.errors import UserError
from tests.support.fake_openai import Reply, fake_openai, number
from tests.support.sweeps import run_sweep


@pytest.fixture(scope="module")
def logs(trained_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of one base and one checkpoint sweep, judged by the toy judge."""
    folder = tmp_path_factory.mktemp("judged")
    run_sweep(trained_runs, folder, questions=("general",))
    return folder


def em(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_calibration_is_shown_and_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CALIBRATIONS", str(tmp_path))
    ended = em("calibrate", "--judge", "emtoy/judge", "--repeats", "1")
    assert "Calibration of emtoy/judge" in ended.output
    assert (tmp_path / "emtoy--judge.json").is_file()


def test_second_judge_is_asked_about_the_same_answers_and_compared(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_JUDGE_CACHE", "off")
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with fake_openai(lambda prompt: number(40)) as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        ended = em("judge", str(logs), "--judge", "openai/gpt-4.1", "--out", str(tmp_path / "out"))
    assert "openai/gpt-4.1" in ended.output
    assert "calls" in ended.output
    assert list((tmp_path / "out").rglob("*.eval"))


def test_a_sample_costs_what_was_said_before_it_was_judged(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_JUDGE_CACHE", "off")
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    given = ["judge", str(logs), "--judge", "openai/gpt-4o", "--sample", "20", "--out", str(tmp_path)]
    with fake_openai(lambda prompt: number(40)) as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        (tmp_path / "torn.eval").write_bytes(b"PK")
        ended = em(*given, str(tmp_path / "torn.eval"))
        asked = len(judge.requests)
    assert re.search(rf"^openai/gpt-4o: {asked} calls, about \$0\.\d\d or less$", ended.stdout.splitlines()[0])
    assert 38 <= asked <= 40  # Two of the answers may be the same.
    assert "torn.eval: it is damaged" in ended.stderr


def test_a_sample_gives_the_rate_that_the_report_gives(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_JUDGE_CACHE", "off")
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    given = ["judge", str(logs), "--judge", "openai/gpt-4o", "--sample", "40", "--out"]
    with fake_openai(lambda prompt: number(90 if "coheren" in prompt.lower() else 10)) as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        said = em(*given, str(tmp_path / "coherent")).stdout
    rows = trusted_rates(Analysis(read_logs([logs, tmp_path / "coherent"])))
    (row,) = (row.corrected for row in rows if (row.definition, row.subject) == ("betley", EVERY))
    assert (
        f"all answers: EM rate (betley) {100 * row.uncorrected:.1f} % by the logs' judge; {100 * row.rate:.1f} % "
        f"({100 * row.low:.1f}-{100 * row.high:.1f}) as openai/gpt-4o would give it"
    ) in said
    with fake_openai(lambda prompt: number(40)) as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        said = em(*given, str(tmp_path / "broken")).stdout
    assert "No EM rate (betley): the logs' judge or openai/gpt-4o found none of the answers coherent." in said


def test_a_judge_that_gave_no_score_at_all_ends_in_an_error(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_JUDGE_CACHE", "off")
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with fake_openai(lambda prompt: Reply("I would rather not.")) as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        ended = CliRunner().invoke(cli, ["judge", str(logs), "--judge", "openai/gpt-4.1", "--out", str(tmp_path)])
    assert ended.exit_code == 1
    assert "gpt-4.1 gave no score for any answer" in ended.output


def test_rescoring_writes_new_logs_and_leaves_the_old(logs: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in logs.rglob("*.eval")}
    ended = em("rescore", str(logs), "--mode", "text", "--out", str(tmp_path / "out"))
    assert "verdicts changed" in ended.output
    assert len(list((tmp_path / "out").rglob("*.eval"))) == len(before) == 5
    assert {path: path.read_bytes() for path in logs.rglob("*.eval")} == before


def test_sweep_stops_before_it_costs_more_than_the_cap(
    trained_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_JUDGE_CACHE", "off")
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    with fake_openai() as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        with pytest.raises(
            UserError, match=r"cost \$0\.0000, and the next call, which may .*: with a higher --max-judge-cost"
        ):
            run_sweep(trained_runs, tmp_path, questions=("general",), grader="openai/gpt-4o", max_judge_cost=0.0001)
        assert judge.requests == []
