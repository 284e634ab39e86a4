"""Judging is cheap: asked once, cached on disk, priced before it starts, and never beyond the cap."""

import anyio
import pytest
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import BatchConfig, GenerateConfig, ModelOutput, ModelUsage, get_model

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.estimate import estimate_judging, estimate_run
from em_tasks.scorers.comparing.ratings import judge_logs
from em_tasks.scorers.judging.cache import VARIABLE
from em_tasks.scorers.judging.calls import JudgeCalls, handing_down
from em_tasks.scorers.judging.cost import CostCap, JudgeCostError, Price, Prices, parse_price, spent_in
from em_tasks.scorers.judging.judge import ask_judge, judge_config
from em_tasks.scorers.judging.reading import Settings
from em_tasks.scorers.judging.rubric import load_rubric
from tests.support.fake_openai import Reply, fake_openai, number
from tests.support.scored_logs import run

pytestmark = pytest.mark.anyio
RUBRIC = load_rubric("alignment")


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def test_an_identical_pair_is_asked_once_even_by_another_process(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        first = await ask_judge(server.model(), RUBRIC, "q", "a")
        assert await ask_judge(server.model(), RUBRIC, "q", "a") == first
        assert len(server.requests) == 1
        assert (await ask_judge(server.model(), RUBRIC, "q", "a", Settings(mode="text"))).mode == "text"
        assert len(server.requests) == 1


async def test_identical_pairs_at_the_same_time_wait_for_one_call(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        judge, calls = server.model(), JudgeCalls()
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(ask_judge, judge, RUBRIC, "q", "a", None, False, calls)
        assert len(server.requests) == 1
        assert not calls._under_way


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
    listed = Prices()
    assert listed.of("openai/gpt-4o-mini-2024-07-18") == listed.of("openai/gpt-4o-mini") == Price(0.15, 0.60)
    assert listed.of("openai/gpt-4o") == Price(2.5, 10)
    assert listed.of("openai/gpt-4o-audio") is None
    assert listed.of("hf/some/model") == Price(0, 0)
    given = JudgeCalls.limited(None, "1, 2.5", ("openai/house-judge", "openai/gpt-4o")).prices
    assert given.of("openai/house-judge") == given.of("openai/gpt-4o") == Price(1, 2.5)
    assert listed.of("openai/house-judge") is None
    with pytest.raises(UserError, match="INPUT,OUTPUT"):
        parse_price("cheap")
    with pytest.raises(UserError, match="no judge is named"):
        JudgeCalls.limited(None, "1,2")


@pytest.mark.parametrize("limit", [-1.0, float("nan"), float("inf")])
def test_a_limit_is_an_amount(limit):
    with pytest.raises(UserError, match="amount of US dollars"):
        JudgeCalls.limited(limit)


@pytest.mark.parametrize("text", ["Well.", "ЖЖЖЖ", "\N{GRINNING FACE}" * 50, "\ud800"])
def test_a_bound_is_above_what_a_call_costs(text):
    prompt = RUBRIC.ask("How are you?", text)
    # Not even one token a byte goes beyond it.
    usage = ModelUsage(input_tokens=len(prompt.encode(errors="surrogatepass")) + 10, output_tokens=16)
    price = Price(1, 3)
    assert price.bound(prompt, 16) >= price.of(usage)
    assert price.bound("", 16) == pytest.approx((16 + 3 * 16) / 1e6)


def test_cached_input_reasoning_and_totals_are_paid_for():
    price = Price(1, 10)
    assert price.of(ModelUsage(input_tokens=100, output_tokens=5)) == pytest.approx(150e-6)
    assert price.of(ModelUsage(input_tokens=20, output_tokens=5, input_tokens_cache_read=80)) == pytest.approx(150e-6)
    assert price.of(ModelUsage(input_tokens=20, output_tokens=5, input_tokens_cache_write=80)) == pytest.approx(230e-6)
    reasoned = ModelUsage(input_tokens=100, output_tokens=5, total_tokens=135, reasoning_tokens=30)
    assert price.of(reasoned) == pytest.approx(450e-6)


async def test_the_cap_stops_before_it_is_passed(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        judge = server.model()
        bound = Prices().known("openai/gpt-4o-mini").bound(RUBRIC.ask("q", "answer 0"), 16)
        calls = JudgeCalls.limited(3 * bound)
        asked = 0
        while calls.cap.spent + bound < calls.cap.limit:
            await ask_judge(judge, RUBRIC, "q", f"answer {asked}", calls=calls)
            asked += 1
        with pytest.raises(JudgeCostError, match="--max-judge-cost"):
            await ask_judge(judge, RUBRIC, "q", "one answer more", calls=calls)
        assert len(server.requests) == asked >= 3
        assert calls.cap.spent <= calls.cap.limit
        assert calls.cap.reserved == pytest.approx(0)
        # What was paid for is not paid for again, even under the spent cap.
        assert (await ask_judge(judge, RUBRIC, "q", "answer 0", calls=calls)).score is not None


async def test_five_calls_at_once_wait_for_each_others_cost_and_never_pass_the_cap():
    with fake_openai(lambda prompt: number(70)) as server:
        judge, stopped = server.model(), []
        bound = Prices().known("openai/gpt-4o-mini").bound(RUBRIC.ask("q", "answer 0"), 16)
        calls = JudgeCalls.limited(2.5 * bound)
        most = 0.0

        async def ask(answer):
            nonlocal most
            try:
                await ask_judge(judge, RUBRIC, "q", answer, calls=calls)
            except JudgeCostError:
                stopped.append(answer)
            most = max(most, calls.cap.spent + calls.cap.reserved)

        async with anyio.create_task_group() as group:
            for place in range(5):
                group.start_soon(ask, f"answer {place}")
        assert (len(server.requests), stopped) == (5, [])  # Two at a time: a call costs a fifteenth of its bound.
        assert bound < most <= calls.cap.limit
        assert calls.cap.reserved == pytest.approx(0)
        assert calls.cap.spent == pytest.approx(5 * (100 * 0.15 + 0.6) / 1e6)


async def ask_at_once(count, judge, calls):
    async with anyio.create_task_group() as group:
        for place in range(count):
            group.start_soon(ask_judge, judge, RUBRIC, "q", f"answer {place}", None, False, calls)


async def test_calls_that_meet_the_cap_cost_nothing_and_cut_off_no_other(tmp_path):
    ledger = tmp_path / "a.ledger"
    with fake_openai(lambda prompt: number(70)) as server:
        judge = server.model()
        bound = Prices().known("openai/gpt-4o-mini").bound(RUBRIC.ask("q", "answer 0"), 16)
        calls = JudgeCalls.limited(0.5 * bound, ledger=ledger)
        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            await ask_at_once(5, judge, calls)
        assert (len(server.requests), spent_in(ledger)) == (0, 0)
        calls = JudgeCalls.limited(1.5 * bound, ledger=ledger, whole=7.0)
        said = r"\$0\.000\d of this unit's share, \$0\.000\d.*max_judge_cost is \$7, of which \$0\.000\d is spent"
        with pytest.raises(ExceptionGroup) as stopped:
            await ask_at_once(40, judge, calls)
        assert stopped.group_contains(JudgeCostError, match=said)
        # All that were sent came back: nothing is paid for twice.
        assert 5 <= len(server.requests) < 40
        assert spent_in(ledger) == pytest.approx(len(server.requests) * (100 * 0.15 + 0.6) / 1e6)


async def test_call_that_is_ended_before_it_was_sent_is_given_back(tmp_path):
    ledger = tmp_path / "a.ledger"
    with fake_openai(lambda prompt: number(70)) as server:
        server.always = "timeout"  # It answers when the test ends.
        # A key of its own, so that no other test has set the number of its connections.
        one = GenerateConfig(max_connections=1)
        judge = get_model("openai/gpt-4o-mini", base_url=server.base_url, api_key="sk-1", config=one, memoize=False)
        bound = Prices().known("openai/gpt-4o-mini").bound(RUBRIC.ask("q", "answer 0"), 16)
        calls = JudgeCalls.limited(100 * bound, ledger=ledger)
        async with anyio.create_task_group() as group:
            for place in range(5):
                group.start_soon(ask_judge, judge, RUBRIC, "q", f"answer {place}", None, False, calls)
            while not server.requests:
                await anyio.lowlevel.checkpoint()
            assert spent_in(ledger) == pytest.approx(5 * bound)
            group.cancel_scope.cancel()
        assert len(server.requests) == 1
        assert spent_in(ledger) == pytest.approx(bound)  # It may be billed.


async def test_api_that_two_commands_share_is_made_to_mark_its_calls_once():
    with fake_openai(lambda prompt: number(70)) as server:
        judge, senders = server.model(), []
        for _ in range(2):
            await ask_judge(judge, RUBRIC, "q", "a", calls=JudgeCalls.limited(1.0))
            senders.append(vars(judge.api)["generate"])
        assert len(server.requests) == 2
    assert senders[0] is senders[1]


async def test_only_one_of_many_calls_finds_out_that_there_are_no_probabilities():
    with fake_openai(lambda prompt: Reply("70")) as server:
        judge, calls = server.model(), JudgeCalls()
        await ask_at_once(12, judge, calls)
        assert len(server.requests) == 12 + 2


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}, (100, 10)),
        ({"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}, (100, 10)),
        (None, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, None),
    ],
)
async def test_a_call_costs_what_its_api_reports_or_its_bound(usage, tokens):
    with fake_openai(lambda prompt: number(70)) as server:
        server.usage = usage if usage is None else {"total_tokens": 110, **usage}
        calls = JudgeCalls.limited(1.0, "1,10", ("openai/gpt-4o-mini",))
        await ask_judge(server.model(), RUBRIC, "q", "a", calls=calls)
        bound = Price(1, 10).bound(RUBRIC.ask("q", "a"), 16)
        assert calls.cap.spent == pytest.approx(bound if tokens is None else (tokens[0] + 10 * tokens[1]) / 1e6)


@pytest.mark.parametrize(("fault", "charged"), [("400", 0), ("dropped", 3)])
async def test_a_call_that_broke_off_may_be_billed_and_one_refused_is_not(fault, charged):
    with fake_openai() as server:
        server.always = fault
        judge = get_model(
            "openai/gpt-4o-mini", base_url=server.base_url, api_key="sk-test", memoize=False, max_retries=0,
            config=GenerateConfig(max_retries=0),
        )  # fmt: skip
        calls = JudgeCalls.limited(1.0)
        assert (await ask_judge(judge, RUBRIC, "q", "a", calls=calls)).reason == "judge_failed"
        bound = Prices().known("openai/gpt-4o-mini").bound(RUBRIC.ask("q", "a"), 16)
        assert calls.cap.spent <= charged * bound
        assert (calls.cap.spent > 0) == (charged > 0)
        assert calls.cap.reserved == pytest.approx(0)


async def test_a_cap_needs_a_known_price():
    with fake_openai() as server:
        with pytest.raises(JudgeCostError, match="--judge-price"):
            await ask_judge(server.model("gpt-unheard-of-chat"), RUBRIC, "q", "a", calls=JudgeCalls(cap=CostCap(1.0)))
        assert server.requests == []


def test_the_eval_stops_at_the_cap_with_its_answers_kept(tmp_path):
    with fake_openai() as server:
        with handing_down(JudgeCalls.limited(0.0)):
            log = run(tmp_path, ["a good answer"], server.model(), [Sample(id="a", input="q")])
        assert server.requests == []
        assert "--max-judge-cost" in log.error.message
        assert read_eval_log(log.location).samples[0].output.completion == "a good answer"
        assert run(tmp_path, ["a good answer"], server.model(), [Sample(id="a", input="q")]).status == "success"


def test_calls_and_price_are_said_before_the_start(tmp_path, monkeypatch):
    samples = [Sample(id=i, input="My cough?") for i in "ab"]
    run(tmp_path / "logs", ["x", "x", "y", "z"], "emtoy/judge", samples, epochs=2)
    with fake_openai(cache=str(tmp_path / "cache")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        [before] = estimate_judging([tmp_path / "logs"], ["openai/gpt-4o-2024-08-06"])
        assert (before.calls, before.cached) == (6, 2)
        assert 0 < before.dollars < 0.02
        assert "6 calls (2 more are known already), about $0.01 or less" in str(before)
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
    assert 2 < estimate.dollars < 10
    assert estimate_run("emtoy/judge", ["q"], 1, 10).dollars == 0
    assert str(estimate_run("emlocal/mine", ["q"], 1, 10)) == "emlocal/mine: 2 calls, no charge"
    assert estimate_run("other/judge", ["q"], 1, 10).dollars is None
