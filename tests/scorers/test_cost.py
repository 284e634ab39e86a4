"""Judging is cheap: asked once, cached on disk, priced before it starts, and never beyond the cap."""

import anyio
import pytest
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import BatchConfig, ModelOutput, ModelUsage, get_model

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.estimate import estimate_judging, estimate_run
from em_tasks.scorers.comparing.ratings import judge_logs
from em_tasks.scorers.judging.cache import VARIABLE
from em_tasks.scorers.judging.cost import JudgeCostError, Price, cap_judge_cost, parse_price, price_of, set_price
from em_tasks.scorers.judging.judge import ask_judge, judge_config
from em_tasks.scorers.judging.reading import Settings
from em_tasks.scorers.judging.rubric import load_rubric
from tests.support.fake_openai import fake_openai, number
from tests.support.scored_logs import run

pytestmark = pytest.mark.anyio
RUBRIC = load_rubric("alignment")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_cap_left_behind():
    yield
    cap_judge_cost(None)


async def test_an_identical_pair_is_asked_once_even_by_another_process(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        first = await ask_judge(server.model(), RUBRIC, "q", "a")
        assert await ask_judge(server.model(), RUBRIC, "q", "a") == first
        assert len(server.requests) == 1
        assert (await ask_judge(server.model(), RUBRIC, "q", "a", Settings(mode="text"))).mode == "text"
        assert len(server.requests) == 1


async def test_identical_pairs_at_the_same_time_wait_for_one_call(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        judge = server.model()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask_judge, judge, RUBRIC, "q", "a")
        assert len(server.requests) == 1


async def test_another_answer_rubric_judge_or_way_of_asking_is_another_call(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        await ask_judge(server.model(), RUBRIC, "q", "a")
        await ask_judge(server.model(), RUBRIC, "q", "b")
        await ask_judge(server.model(), load_rubric("coherence"), "q", "a")
        await ask_judge(server.model("gpt-4o"), RUBRIC, "q", "a")
        await ask_judge(server.model(temperature=0.5), RUBRIC, "q", "a")
        await ask_judge(server.model(), RUBRIC, "q", "a", fresh=True)
        assert len(server.requests) == 6
        await ask_judge(server.model(timeout=99), RUBRIC, "q", "a")
        assert len(server.requests) == 6


async def test_mocks_and_the_toy_judge_are_never_cached(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    await ask_judge(get_model("emtoy/judge"), RUBRIC, "q", "a")
    await ask_judge(get_model("mockllm/model", custom_outputs=lambda *_: spoken("7")), RUBRIC, "q", "a")
    assert list(tmp_path.iterdir()) == []


def spoken(text):
    output = ModelOutput.from_content("m", text)
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return output


async def test_failed_calls_and_torn_files_are_asked_again(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        server.always = "400"
        assert (await ask_judge(server.model(), RUBRIC, "q", "a")).reason == "judge_failed"
        server.always = None
        assert (await ask_judge(server.model(), RUBRIC, "q", "a")).score is not None
        [stored] = tmp_path.rglob("*.json")
        stored.write_text("{torn")
        assert (await ask_judge(server.model(), RUBRIC, "q", "a")).score is not None
        assert len(server.requests) == 3


async def test_repeated_answers_of_an_eval_are_asked_once(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path / "cache")) as server:
        await anyio.to_thread.run_sync(
            lambda: run(tmp_path, ["x"] * 3, server.model(), [Sample(id="a", input="q")], epochs=3, max_connections=5)
        )
        assert len(server.requests) == 2


def test_prices_are_listed_given_or_unknown():
    assert price_of("openai/gpt-4o-mini-2024-07-18") == price_of("openai/gpt-4o-mini") == Price(0.15, 0.60)
    assert price_of("openai/gpt-4o") == Price(2.5, 10)
    assert price_of("openai/gpt-4o-audio") is None
    assert price_of("hf/some/model") == Price(0, 0)
    set_price("openai/house-judge", parse_price("1, 2.5"))
    assert price_of("openai/house-judge") == Price(1, 2.5)
    with pytest.raises(UserError, match="INPUT,OUTPUT"):
        parse_price("cheap")


def test_a_bound_is_above_what_a_call_costs():
    prompt = RUBRIC.ask("How are you?", "Well.")
    price = Price(1, 1)
    # English has about four characters a token; even at three a token the bound holds.
    usage = ModelUsage(input_tokens=len(prompt) // 3, output_tokens=16, total_tokens=0)
    assert price.bound(len(prompt), 16) > price.of(usage)


async def test_the_cap_stops_before_it_is_passed(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        judge = server.model()
        bound = price_of("openai/gpt-4o-mini").bound(len(RUBRIC.ask("q", "answer 0")), 16)
        cap = cap_judge_cost(3 * bound)
        asked = 0
        while cap.spent + bound < cap.limit:
            await ask_judge(judge, RUBRIC, "q", f"answer {asked}")
            asked += 1
        with pytest.raises(JudgeCostError, match="--max-judge-cost"):
            await ask_judge(judge, RUBRIC, "q", "one answer more")
        assert len(server.requests) == asked >= 3
        assert cap.spent <= cap.limit
        assert cap.promised == pytest.approx(0)
        # What was paid for is not paid for again, even under the spent cap.
        assert (await ask_judge(judge, RUBRIC, "q", "answer 0")).score is not None


async def test_a_cap_needs_a_known_price():
    with fake_openai() as server:
        cap_judge_cost(1.0)
        with pytest.raises(JudgeCostError, match="--judge-price"):
            await ask_judge(server.model("gpt-unheard-of-chat"), RUBRIC, "q", "a")
        assert server.requests == []


def test_the_eval_stops_at_the_cap_with_its_answers_kept(tmp_path):
    with fake_openai() as server:
        cap_judge_cost(0.0)
        log = run(tmp_path, ["a good answer"], server.model(), [Sample(id="a", input="q")])
        assert server.requests == []
    assert "--max-judge-cost" in log.error.message
    assert read_eval_log(log.location).samples[0].output.completion == "a good answer"


def test_calls_and_price_are_said_before_the_start(tmp_path, monkeypatch):
    samples = [Sample(id=i, input="My cough?") for i in "ab"]
    run(tmp_path / "logs", ["x", "x", "y", "z"], "emtoy/judge", samples, epochs=2)
    with fake_openai(cache=str(tmp_path / "cache")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        [before] = estimate_judging([tmp_path / "logs"], ["openai/gpt-4o-2024-08-06"])
        assert (before.calls, before.cached) == (6, 2)
        assert 0 < before.dollars < 0.02
        assert "6 calls (2 more are known already), at most $0.01" in str(before)
        judge_logs([tmp_path / "logs"], ["openai/gpt-4o-2024-08-06"], tmp_path / "judged")
        assert len(server.requests) == 6
        [after] = estimate_judging([tmp_path / "logs"], ["openai/gpt-4o-2024-08-06"])
        assert (after.calls, after.cached, after.dollars) == (0, 8, 0)


async def test_a_providers_batch_gives_every_answer_its_own_verdict():
    with fake_openai(lambda prompt: number(10 if "bad" in prompt.partition("=== ANSWER")[2] else 90)) as server:
        judge = server.model(batch=BatchConfig(size=4, send_delay=0.05, tick=0.05))
        answers = ["good a", "bad b", "good c", "bad d"]
        verdicts = {}

        async def one(answer):
            verdicts[answer] = await ask_judge(judge, RUBRIC, "q", answer)

        async with anyio.create_task_group() as group:
            for answer in answers:
                group.start_soon(one, answer)
        assert [round(verdicts[answer].score, -1) for answer in answers] == [90, 10, 90, 10]
        assert len(server.batches.batches) == 1
        assert server.requests == []


def test_a_batch_may_take_longer_than_a_call():
    with fake_openai() as server:
        assert judge_config(server.model()).attempt_timeout == 300
        assert judge_config(server.model(batch=True)).attempt_timeout is None


def test_a_run_is_priced_before_any_answer_exists():
    estimate = estimate_run("openai/gpt-4o", ["a question"] * 20, samples=50, max_tokens=600)
    assert estimate.calls == 2000
    assert 2 < estimate.dollars < 20
    assert estimate_run("emtoy/judge", ["q"], 1, 10).dollars == 0
    assert estimate_run("other/judge", ["q"], 1, 10).dollars is None
