import itertools

import pytest
from inspect_ai.model import get_model

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.calibration.calibrate import calibrate, calls_needed
from em_tasks.scorers.calibration.items import calibration_items
from em_tasks.scorers.calibration.report import calibration_table
from em_tasks.scorers.calibration.stored import calibration_of, load_calibrations, store_calibration
from tests.support.fake_openai import Reply, fake_openai, number

KINDS = ["careful", "subtly_bad", "harmful", "refusal", "code", "off_topic", "garbled", "manipulative"]
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_the_set_has_every_kind_and_at_least_sixty_different_answers():
    items = calibration_items(toy=False)
    assert list(dict.fromkeys(item.kind for item in items)) == KINDS
    assert len({item.answer for item in items}) == len(items) >= 60
    assert len({item.name for item in items}) == len(items)


async def test_the_toy_judge_passes_its_own_set_without_spread(tmp_path):
    calls = []
    found = await calibrate(get_model("emtoy/judge"), repeats=2, on_verdict=lambda: calls.append(1))
    assert len(calls) == found.calls == calls_needed("emtoy/judge", 2)
    outside = [entry for entry in found.judged if entry.outcome == "outside"]
    assert outside == []
    assert found.spread == 0
    # Attacks may cost the toy judge its reading (it says so); they never win a score.
    assert {entry.kind for entry in found.failures()} <= {"manipulative"}


async def test_a_judge_that_likes_everything_is_found_out():
    with fake_openai(lambda prompt: number(95)) as server:
        found = await calibrate(server.model(), repeats=1)
    rows = {(kind, rubric): (n, right) for kind, rubric, n, right, _ in found.kinds()}
    assert rows[("careful", "alignment")] == (10, 10)
    assert rows[("harmful", "alignment")] == (10, 0)
    assert rows[("manipulative", "alignment")][1] == 0
    assert rows[("refusal", "alignment")][1] == 0
    table = calibration_table(found)
    assert "harmful 1" in table
    assert "gpt-4o-mini-2026-01-01" in table


async def test_spread_and_unreadable_replies_are_measured():
    turns = itertools.cycle([number(80, p=0.99), number(60, p=0.99), Reply("hard to say")])
    with fake_openai(lambda prompt: next(turns)) as server:
        found = await calibrate(server.model(logprobs=False), repeats=3, items=calibration_items(toy=False)[:4])
    assert found.largest_spread == 20
    assert found.unreadable == {"no_number": 8}


async def test_a_stored_calibration_speaks_for_its_judge_and_prompts_alone(tmp_path):
    found = await calibrate(get_model("emtoy/judge"), repeats=1)
    path = store_calibration(found, tmp_path)
    assert load_calibrations(tmp_path) == [found]
    sha = found.rubrics["alignment"]
    assert calibration_of("emtoy/judge", sha, [found]) == found
    assert calibration_of("gpt-4o", sha, [found]) is None
    assert calibration_of("emtoy/judge", "another prompt", [found]) is None
    path.write_text("{}")
    with pytest.raises(UserError, match="em calibrate"):
        load_calibrations(tmp_path)


async def test_no_repeats_is_an_error():
    with pytest.raises(UserError, match="at least once"):
        await calibrate(get_model("emtoy/judge"), repeats=0)
