"""The cap on what a study's judges cost: shared among units, kept over restarts, never passed."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from em_tasks.grid.budget import Budget, raise_spent
from em_tasks.grid.executors.protocol import Ended
from em_tasks.grid.needs import grid_needs
from em_tasks.grid.plan import plan_grid
from em_tasks.grid.run import Driver
from em_tasks.grid.units import Evaluate, Unit
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.cost import CostCap, JudgeCostError, spent_in, spent_on_judging
from tests.support.fake_openai import USAGE, fake_openai, number
from tests.support.grids import grid_file, run_grid

JUDGE = "openai/gpt-4o-mini"
CALL = (USAGE["prompt_tokens"] * 0.15 + USAGE["completion_tokens"] * 0.6) / 1e6
"""What one call to the fake API costs at the list price (US dollars)."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a grid of one organism, trained, asked and judged without a cap."""
    folder = tmp_path_factory.mktemp("asked")
    run_grid(grid_file(folder, {"seed": [3]}), folder / "out", reported=False)
    return folder / "out"


def test_ledger_holds_a_call_before_it_is_sent_and_its_cost_when_it_is_back(tmp_path: Path) -> None:
    ledger = tmp_path / "new" / "a.ledger"
    cap = CostCap(1.0, ledger=ledger)
    cap.reserve("j", 0.5)
    assert spent_in(ledger) == 0.5  # Killed here, the call counts whole: it may have been sent.
    cap.settle(0.5, 0.125)
    assert spent_in(ledger) == 0.125
    with ledger.open("a") as file:
        file.write("\n+0.2")  # A kill in the middle of entering a call that was not sent.
    again = CostCap(1.0, ledger=ledger)
    again.reserve("j", 0.25)
    assert again.spent + again.reserved == pytest.approx(spent_in(ledger)) == pytest.approx(0.575)
    with pytest.raises(JudgeCostError, match="could go beyond"):
        again.reserve("j", 0.5)


def test_shares_never_come_to_more_than_the_cap_and_what_a_unit_leaves_goes_to_those_after_it(tmp_path: Path) -> None:
    budget = Budget(10.0, tmp_path, {"free": 0.0, "dear": 0.1}, total=20.0)
    assert budget.expected(("free", "dear"), 30) == pytest.approx(3.0)
    first, free = budget.share([8.0, 0.0])
    assert (first.dollars, free.dollars) == (pytest.approx(4.0), 0.0)  # 8 of 20 expected.
    CostCap(first.dollars, ledger=first.ledger).reserve("j", 1.0)
    (second,) = budget.share([6.0])
    assert second.dollars == pytest.approx(3.0)  # The first's whole share is set aside while it is at work.
    budget.ended(first.ledger)
    budget.ended(free.ledger)
    (third,) = budget.share([6.0], done=8.0)
    assert third.dollars == pytest.approx(10.0 - 1.0 - 3.0)  # It leaves 3 of 4, and nothing comes after it.
    CostCap(third.dollars, ledger=third.ledger).reserve("j", 5.0)
    restarted = Budget(10.0, tmp_path, {}, total=20.0)
    assert restarted.share([20.0])[0].dollars == pytest.approx(10.0 - 1.0 - 5.0)
    assert Budget(5.0, tmp_path, {}, total=20.0).share([20.0])[0].dollars == 0.0
    raise_spent(tmp_path, 6.5)
    raise_spent(tmp_path, 6.25)
    assert spent_on_judging(tmp_path) == pytest.approx(6.5)


def test_two_commands_do_not_share_out_the_same_money(tmp_path: Path) -> None:
    with Budget(1.0, tmp_path, {}, 1.0).alone(), pytest.raises(UserError, match="Another em grid works on"):
        Budget(1.0, tmp_path, {}, 1.0).alone().__enter__()


def test_judge_without_a_known_price_is_refused_before_the_first_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    axes = {"seed": [3], "judge": ["openai/gpt-unheard-of"]}
    grid = grid_file(tmp_path, axes, evaluate={"questions": ["general"], "max_judge_cost": 1})
    with pytest.raises(UserError, match=r"tiny\.yaml: the price of openai/gpt-unheard-of is not known, so max_judge"):
        grid_needs(plan_grid(grid, tmp_path / "out"), None)


def test_study_never_pays_more_than_its_cap_and_goes_on_from_what_it_paid_for(
    asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capped(dollars: float) -> Path:
        evaluate = {"questions": ["general"], "samples": 1, "max_judge_cost": dollars}
        return grid_file(tmp_path, {"seed": [3], "judge": [None, JUDGE]}, evaluate=evaluate)

    monkeypatch.setenv("EM_JUDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "test")
    out = Path(shutil.copytree(asked, tmp_path / "out"))
    with fake_openai(lambda prompt: number(70)) as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        cap, seen, sent = 40 * CALL, [0.0], [0]
        for _ in range(3):
            with pytest.raises(UserError, match=rf"max_judge_cost is \${cap:g}, of which .* is spent or set aside"):
                run_grid(capped(cap), out, reported=False)
            seen.append(spent_on_judging(out / "judge_cost"))
            sent.append(len(judge.requests))
            # No call was cut off.
            assert seen[-1] == pytest.approx(sent[-1] * CALL)
        assert 20 < sent[1] <= sent[2] == sent[3] <= 40
        needs = grid_needs(plan_grid(capped(cap), out), None)
        assert needs.judging[-1] == f"at most ${cap:g} in all, of which ${seen[-1]:.4f} is spent"
        assert "where judging stops" in needs.judging[-2]
        run_grid(capped(1.0), out, reported=False)
        assert len(judge.requests) >= 2 * 3 * 10
        assert spent_on_judging(out / "judge_cost") >= len(judge.requests) * CALL - 1e-9


def test_evaluations_get_their_shares_and_ledgers_as_they_are_handed_over(asked: Path, tmp_path: Path) -> None:
    shutil.copytree(asked / "runs", tmp_path / "out" / "runs")
    evaluate = {"questions": ["general"], "samples": 1, "max_judge_cost": 2.0, "judge_price": "1,1"}
    grid = grid_file(tmp_path, {"seed": [3], "condition": [None, "json"]}, evaluate=evaluate)
    plan = plan_grid(grid, tmp_path / "out")
    needs = grid_needs(plan, None)
    shares: list[float] = []

    class Looking:
        width = 1

        def run(self, units: Sequence[Unit], folder: Path, more: Any) -> None:
            assert not units  # It is trained.
            evaluations = more([])
            for unit in evaluations:
                assert isinstance(unit, Evaluate)
                assert unit.job.options.judge_ledger is not None
                assert unit.job.options.judge_ledger.parent == plan.judge_cost
                shares.append(unit.job.options.max_judge_cost or 0.0)
            CostCap(1.0, ledger=evaluations[0].job.options.judge_ledger).reserve("j", 0.25)
            assert more([Ended(unit, None) for unit in evaluations]) is None

    budget = Budget(2.0, plan.judge_cost, needs.dollars, needs.judging_dollars)
    Driver(plan, Looking(), {}, lambda standing: None, budget=budget).run()
    assert shares == [pytest.approx(1.0), pytest.approx(1.0)]
    assert budget.share([1.0])[0].dollars == pytest.approx(2.0 - 0.25)
