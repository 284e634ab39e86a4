"""What judge calls share: limits, one call of a key at a time, and an object that is handed down and taken back."""

import anyio
import pytest
from inspect_ai.model import get_model

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.calls import JudgeCalls, handed_down, handing_down
from em_tasks.scorers.judging.cost import CostCap, JudgeCostError, Price

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_limit_and_price_are_those_that_were_given():
    calls = JudgeCalls.limited(1.5, "2,8", ("x/a", "x/b"))
    assert calls.cap == CostCap(1.5)
    assert calls.prices.given == {"x/a": Price(2, 8), "x/b": Price(2, 8)}
    assert (JudgeCalls.limited(None).cap, JudgeCalls.limited(None).prices.given) == (None, {})
    assert JudgeCalls.limited(0).cap == CostCap(0)
    with pytest.raises(UserError, match="no judge is named"):
        JudgeCalls.limited(1.0, "2,8")


def test_a_cap_counts_what_was_spent_and_what_is_under_way_to_the_last_cent():
    cap = CostCap(1.0)
    cap.reserve("j", 0.5)
    cap.reserve("j", 0.25)
    assert (cap.spent, cap.reserved) == (0, 0.75)
    cap.settle(0.5, 0.125)
    assert (cap.spent, cap.reserved) == (0.125, 0.25)
    with pytest.raises(JudgeCostError, match=r"has cost \$0.1250.*limit of \$1"):
        cap.reserve("j", 0.6875)
    assert (cap.spent, cap.reserved) == (0.125, 0.25)
    cap.reserve("j", 0.625)
    assert cap.spent + cap.reserved == 1.0


async def test_calls_of_one_key_go_one_by_one_and_of_two_keys_together():
    calls, under_way, most = JudgeCalls(), [], {}

    async def ask(key):
        async with calls.alone(key):
            under_way.append(key)
            most[key] = max(most.get(key, 0), under_way.count(key))
            most["all"] = max(most.get("all", 0), len(under_way))
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            under_way.remove(key)

    async with anyio.create_task_group() as group:
        for key in ("a", "b", "a", "b", "a"):
            group.start_soon(ask, key)
    assert most == {"a": 1, "b": 1, "all": 2}
    assert not calls._under_way


async def test_a_call_that_comes_while_the_second_is_under_way_waits_for_it():
    calls, order = JudgeCalls(), []
    gates = {name: anyio.Event() for name in "abc"}

    async def ask(name):
        async with calls.alone("key"):
            order.append(f"{name} begins")
            await gates[name].wait()
            order.append(f"{name} ends")

    async with anyio.create_task_group() as group:
        for name in "ab":
            group.start_soon(ask, name)
        await anyio.wait_all_tasks_blocked()
        gates["a"].set()
        await anyio.wait_all_tasks_blocked()
        group.start_soon(ask, "c")
        await anyio.wait_all_tasks_blocked()
        gates["c"].set()
        gates["b"].set()
    assert order == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]
    assert not calls._under_way


def test_what_is_known_of_a_judge_is_its_own():
    calls = JudgeCalls()
    one, other = (get_model("mockllm/model", memoize=False).api for _ in range(2))
    calls.known_of(one).served = "a"
    assert (calls.known_of(one).served, calls.known_of(other).served) == ("a", "")
    assert (calls.known_of(other).gives_probabilities, calls.known_of(other).continues) == (None, None)


def test_calls_are_handed_down_to_a_block_and_taken_back_after_it():
    outer, inner = JudgeCalls(), JudgeCalls()
    with handing_down(outer):
        with handing_down(inner):
            assert handed_down() is inner
        assert handed_down() is outer
    assert handed_down() is None
