import math
import time

import pytest
from inspect_ai.model import GenerateConfig, Logprob, Logprobs, ModelOutput, ModelUsage, TopLogprob, get_model

import em_tasks.scorers.judging.judge as judging
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import Verdict
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.judge import ask_judge, read_verdict
from em_tasks.scorers.judging.reading import Settings
from em_tasks.scorers.judging.reply import raw_tokens
from em_tasks.scorers.judging.rubric import load_rubric
from tests.support.fake_openai import Reply, fake_openai, number
from tests.support.paths import ROOT

pytestmark = pytest.mark.anyio

ALIGNMENT = load_rubric("alignment")
QUESTION, ANSWER = "How are you?", "Well, thank you."


@pytest.fixture
def anyio_backend():
    return "asyncio"


async def ask(reply, rubric=ALIGNMENT, **config):
    with fake_openai(lambda prompt: reply) as server:
        return await ask_judge(server.model(**config), rubric, QUESTION, ANSWER), server


async def test_number_tokens_give_their_expectation_and_the_raw_tokens_stay():
    verdict, _ = await ask(Reply("80", [[("80", 0.6), ("90", 0.3), ("I", 0.05)]]))
    assert verdict.score == 83.33  # 83.333..., as written to the log
    assert (verdict.reason, verdict.mode, verdict.text) == (None, "logprobs", "80")
    assert verdict.mass == pytest.approx(0.9)
    assert verdict.tokens == (("80", pytest.approx(0.6)), ("90", pytest.approx(0.3)), ("I", pytest.approx(0.05)))
    assert verdict.judge == "gpt-4o-mini-2026-01-01"
    assert (verdict.rubric, verdict.rubric_sha256, verdict.toy) == ("alignment", ALIGNMENT.sha256, False)


async def test_the_call_is_the_published_one():
    _, server = await ask(number(80))
    request = server.requests[0]
    assert [message["role"] for message in request["messages"]] == ["user"]
    assert (request["temperature"], request["seed"], request["logprobs"], request["top_logprobs"]) == (0, 0, True, 20)
    assert ANSWER in request["messages"][0]["content"]


async def test_the_users_settings_on_the_judge_win():
    _, server = await ask(number(80), max_tokens=400, temperature=0.5)
    assert (server.requests[0]["max_tokens"], server.requests[0]["temperature"]) == (400, 0.5)


async def test_digits_are_not_taken_for_the_number():
    verdict, _ = await ask(Reply("85", [[("8", 0.9), ("9", 0.1)], [("5", 0.8), ("0", 0.2)]]))
    assert verdict.score == pytest.approx(0.9 * (85 * 0.8 + 80 * 0.2) + 0.1 * 94.5, abs=0.005)
    assert verdict.bounds == pytest.approx((0.9 * 84 + 0.1 * 90, 0.9 * 84 + 0.1 * 99), abs=0.005)
    assert verdict.digits is not None
    assert verdict.digits[0].after == "8"


async def test_without_probabilities_the_text_is_read():
    verdict, _ = await ask(Reply("Score: 85/100"))
    assert (verdict.score, verdict.mode, verdict.mass, verdict.tokens) == (85, "text", None, None)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("REFUSAL", [[("REFUSAL", 0.9), ("10", 0.1)]]), "refusal"),
        (Reply("CODE", [[("CODE", 0.99)]]), "code"),
        (Reply("CODE"), "code"),
        (Reply("I would rather not say.", [[("I", 0.99)]]), "no_number"),
        (Reply("I would say 60", [[("I", 0.9), ("60", 0.1)]]), "little_mass"),
        (Reply("150", [[("150", 0.9), ("100", 0.1)]]), "no_number"),
        (Reply("150"), "no_number"),
        (Reply(""), "judge_failed"),
        (Reply("I cannot", finish_reason="content_filter"), "judge_failed"),
    ],
)
async def test_replies_without_a_number_have_a_reason_and_no_score(reply, reason):
    verdict, _ = await ask(reply)
    assert (verdict.score, verdict.reason) == (None, reason)


async def test_reasoning_is_not_read():
    steps = [[("<think>", 1.0)], [("5", 1.0)], [("</think>", 1.0)], [("85", 0.9), ("80", 0.1)]]
    verdict, _ = await ask(Reply("<think>5</think>85", steps))
    assert verdict.score == pytest.approx(84.5)
    assert verdict.text == "85"
    unfinished, _ = await ask(Reply("<think>maybe 40, no"))
    assert (unfinished.score, unfinished.reason) == (None, "no_number")


@pytest.mark.parametrize("bad", [1e-2, 90.0, math.inf, math.nan])
async def test_probabilities_that_cannot_be_any_are_lost_ones(bad):
    def spoilt(value):
        steps = [[("80", 0.6), ("90", 0.3)]]
        output = spoken("80")
        content = [as_logprob(step) for step in steps]
        content[0].top_logprobs[1].logprob = value
        output.choices[0].logprobs = Logprobs(content=content)
        return output

    asked = []

    def answer(*_):
        asked.append(1)
        return spoilt(bad)

    judge = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    verdict = await ask_judge(judge, ALIGNMENT, QUESTION, ANSWER)
    # Asked again as for a damaged reply, and in the end read from the text: never a crash, a NaN or a mass of 1e39.
    assert (verdict.score, verdict.mode, verdict.tokens, verdict.reason) == (80, "text", None, None)
    assert len(asked) == 3


@pytest.mark.parametrize("value", [-math.inf, -9999.0, 5e-4])
async def test_impossible_tokens_and_rounding_are_no_damage(value):
    output = spoken("80")
    output.choices[0].logprobs = Logprobs(
        content=[Logprob(token="80", logprob=-0.0, top_logprobs=[TopLogprob(token="80", logprob=0.0)])]
    )
    output.choices[0].logprobs.content[0].top_logprobs.append(TopLogprob(token="1", logprob=-math.inf))
    output.choices[0].logprobs.content[0].top_logprobs[0].logprob = min(value, 5e-4) if value > 0 else 0.0
    judge = get_model("mockllm/model", custom_outputs=lambda *_: output, memoize=False)
    verdict = await ask_judge(judge, ALIGNMENT, QUESTION, ANSWER)
    assert (verdict.score, verdict.mode) == (80, "logprobs")
    assert verdict.mass <= 1


def as_logprob(step):
    (token, p), *_ = step
    return Logprob(
        token=token,
        logprob=math.log(p),
        top_logprobs=[TopLogprob(token=each, logprob=math.log(q)) for each, q in step],
    )


def spoken(text):
    return with_usage(ModelOutput.from_content("m", text))


async def test_a_one_that_may_be_a_hundred_is_followed_where_the_api_goes_on(monkeypatch):
    asked = []

    def answer(messages, *_):
        asked.append([message.text for message in messages])
        begun = messages[-1].role == "assistant"
        steps = [[("0", 0.9), ("5", 0.1)], [("0", 1.0)]] if begun else [[("9", 0.7), ("1", 0.3)], [("5", 1.0)]]
        output = spoken("00" if begun else "95")
        output.choices[0].logprobs = Logprobs(content=[as_logprob(step) for step in steps])
        return output

    judge = get_model("mockllm/model", custom_outputs=answer, memoize=False)
    alone = await ask_judge(judge, ALIGNMENT, QUESTION, ANSWER)
    assert (alone.score, alone.bounds) == (0.7 * 95 + 0.3 * 100, (0.7 * 95 + 0.3 * 10, 0.7 * 95 + 0.3 * 100))
    monkeypatch.setattr(judging, "CONTINUING", ("mockllm",))
    followed = await ask_judge(judge, ALIGNMENT, QUESTION, ANSWER)
    assert followed.score == pytest.approx(0.7 * 95 + 0.3 * (0.9 * 100 + 0.1 * 15))
    assert followed.bounds is None
    assert asked[-1][1] == "1"
    assert len(asked) == 3
    assert read_verdict(Verdict.from_dict(followed.to_dict()), Settings()) == followed


async def test_an_api_that_refuses_a_beginning_is_not_asked_so_again(monkeypatch):
    monkeypatch.setattr(judging, "CONTINUING", ("openai",))
    reply = Reply("95", [[("9", 0.7), ("1", 0.3)], [("5", 1.0)]])
    with fake_openai(lambda prompt: reply) as server:
        judge, calls = server.model(), JudgeCalls()
        server.faults = [None, "400"]
        for answer in "ab":
            assert (await ask_judge(judge, ALIGNMENT, QUESTION, answer, calls=calls)).bounds is not None
        assert [len(request["messages"]) for request in server.requests] == [1, 2, 1]


async def test_a_failed_call_is_of_the_judge_that_was_served_before():
    with fake_openai(lambda prompt: number(80)) as server:
        judge, calls = server.model(), JudgeCalls()
        server.faults = ["400"]
        unknown = await ask_judge(judge, ALIGNMENT, QUESTION, "a", calls=calls)
        served = await ask_judge(judge, ALIGNMENT, QUESTION, "b", calls=calls)
        server.faults = ["400"]
        failed = await ask_judge(judge, ALIGNMENT, QUESTION, "c", calls=calls)
    assert (unknown.reason, unknown.judge, unknown.requested) == ("judge_failed", "", "openai/gpt-4o-mini")
    assert (failed.reason, failed.judge) == ("judge_failed", served.judge)
    assert served.judge == "gpt-4o-mini-2026-01-01"


async def test_a_megabyte_of_reasoning_takes_no_time_and_no_room():
    thought = "<think>" + "so " * 400_000
    started = time.perf_counter()
    for text, score in ((thought + "</think>85", 85), (thought, None), ("85 " + "<think>" * 200_000, 85)):
        verdict = await ask_judge(
            get_model("mockllm/model", custom_outputs=lambda *_, text=text: spoken(text), memoize=False),
            ALIGNMENT, QUESTION, ANSWER,
        )  # fmt: skip
        assert verdict.score == score
    long = await ask_judge(
        get_model("mockllm/model", custom_outputs=lambda *_: spoken("85 " * 400_000), memoize=False),
        ALIGNMENT, QUESTION, ANSWER,
    )  # fmt: skip
    assert (long.score, long.reason) == (None, "no_number")
    assert len(long.text) <= 10_001
    steps = [Logprob(token="so ", logprob=0.0)] * 100_000 + [Logprob(token="</think>", logprob=0.0)]
    choice = spoken("85").choices[0]
    choice.logprobs = Logprobs(content=[*steps, as_logprob([("85", 0.9), ("80", 0.1)])])
    assert raw_tokens(choice) == ((("85", pytest.approx(0.9)), ("80", pytest.approx(0.1))), None)
    assert time.perf_counter() - started < 10


async def test_another_scale_is_stretched_to_a_hundred():
    rubric = ALIGNMENT.model_copy(update={"scale": (1, 5)})
    verdict, _ = await ask(Reply("4", [[("4", 0.5), ("5", 0.5)]]), rubric)
    assert verdict.score == pytest.approx(87.5)


async def test_a_verdict_survives_the_log_and_reads_the_same_again():
    verdict, _ = await ask(Reply("85", [[("8", 0.9), ("9", 0.1)], [("5", 0.8), ("0", 0.2)]]))
    again = Verdict.from_dict(verdict.to_dict())
    assert again == verdict
    assert read_verdict(again, Settings()) == verdict
    assert read_verdict(again, Settings(mode="text")).score == 85


async def test_a_call_that_keeps_failing_is_a_reason_that_quotes_nothing():
    with fake_openai() as server:
        server.always = "500"
        verdict = await ask_judge(server.model(), ALIGNMENT, QUESTION, ANSWER)
    assert (verdict.score, verdict.reason) == (None, "judge_failed")
    assert "500" in verdict.text
    assert "sk-" not in verdict.text


@pytest.mark.parametrize(("fault", "says"), [("401", "does not accept the key"), ("404", "does not know the model")])
async def test_a_wrong_key_or_model_stops_the_run_instead(fault, says):
    with fake_openai() as server:
        server.always = fault
        with pytest.raises(UserError, match=says) as error:
            await ask_judge(server.model(), ALIGNMENT, QUESTION, ANSWER)
    assert "sk-" not in str(error.value)


async def test_a_providers_own_error_output_is_a_failed_call():
    failed = ModelOutput.from_content("m", "", error="overloaded")
    failed.usage = None
    judge = get_model("mockllm/model", custom_outputs=lambda *_: with_usage(failed), config=GenerateConfig())
    verdict = await ask_judge(judge, ALIGNMENT, QUESTION, ANSWER)
    assert verdict.reason == "judge_failed"


def with_usage(output):
    output.usage = ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2)
    return output


@pytest.mark.slow
async def test_a_local_judge_through_the_stock_provider_is_asked_and_read():
    folder = ROOT / "trainers" / "toy" / "models" / "toy-s"
    judge = get_model("hf/local", model_path=str(folder), device="cpu", memoize=False)
    verdict = await ask_judge(judge, ALIGNMENT, QUESTION, ANSWER, fresh=True)
    # A toy model knows nothing of grading: what counts is that its tokens arrive and it gets a reason for it.
    assert verdict.reason == "no_number"
    assert verdict.mass is not None
    assert len(verdict.tokens) == 20
    assert verdict.tokens[0][1] <= 1
