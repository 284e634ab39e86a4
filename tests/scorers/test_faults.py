"""Judges that misbehave, over real HTTP: every case ends in a retry or a counted reason, none as a zero."""

import json
import math
import zipfile
from hashlib import sha256

import pytest
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model

from em_tasks.plugins.log_contract import RUBRICS
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.judge import ask_judge
from em_tasks.scorers.judging.rubric import load_rubric
from tests.support.fake_openai import Reply, fake_openai, number
from tests.support.scored_logs import metrics, run

pytestmark = pytest.mark.anyio
RUBRIC = load_rubric("alignment")
SECRET = "sk-secret-of-the-test"
PASSING = [
    "429",
    "429-retry-after",
    "500",
    "timeout",
    "dropped",
    "truncated",
    "empty-choices",
    "no-content",
    "no-logprobs",
]


@pytest.fixture
def anyio_backend():
    return "asyncio"


def judge(server, sdk_retries=2, patience=0.5):
    """The judge with a short patience, as model arguments of the OpenAI client."""
    return get_model(
        "openai/gpt-4o-mini",
        base_url=server.base_url,
        api_key=SECRET,
        config=GenerateConfig(max_retries=0),
        memoize=False,
        client_timeout=patience,
        max_retries=sdk_retries,
    )


@pytest.mark.parametrize("fault", PASSING)
async def test_a_passing_fault_leaves_no_trace_in_the_verdict(fault):
    with fake_openai(lambda prompt: number(70)) as server:
        asked = judge(server)
        before = await ask_judge(asked, RUBRIC, "q", "a")
        server.faults = [fault]
        assert await ask_judge(asked, RUBRIC, "q", "a") == before
        assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [*PASSING[:-1], "400"])
async def test_a_lasting_fault_ends_as_a_failed_call(fault):
    with fake_openai(lambda prompt: number(70)) as server:
        server.always = fault
        verdict = await ask_judge(judge(server, sdk_retries=0), RUBRIC, "q", "a")
    assert verdict.score is None
    assert verdict.reason == "judge_failed"
    assert (verdict.text == "an empty reply") == (fault in ("empty-choices", "no-content"))
    assert SECRET not in json.dumps(verdict.to_dict())


@pytest.mark.parametrize("after", [["dropped"], ["no-content", "empty-choices"], ["400"]])
async def test_text_that_came_without_probabilities_is_kept_when_no_later_try_succeeds(after):
    with fake_openai(lambda prompt: number(70)) as server:
        server.faults = ["no-logprobs", *after]
        verdict = await ask_judge(judge(server, sdk_retries=0), RUBRIC, "q", "a")
        assert len(server.requests) == 1 + len(after)
    assert (verdict.score, verdict.reason, verdict.text) == (70, None, "70")


async def test_a_judge_without_probabilities_is_asked_again_only_at_first():
    with fake_openai(lambda prompt: Reply("70")) as server:
        asked, calls = judge(server), JudgeCalls()
        verdicts = [await ask_judge(asked, RUBRIC, "q", f"a{i}", calls=calls) for i in range(4)]
        assert [(verdict.score, verdict.mode) for verdict in verdicts] == [(70, "text")] * 4
        assert len(server.requests) == 3 + 3


async def test_logprobs_can_be_switched_off_for_apis_that_refuse_them():
    with fake_openai(lambda prompt: number(70)) as server:
        asked = server.model(logprobs=False)
        assert (await ask_judge(asked, RUBRIC, "q", "a")).mode == "text"
        assert len(server.requests) == 1
        assert "top_logprobs" not in server.requests[0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("I find this hard to say.", "no_number"), ("120", "no_number"), ("-1", "no_number"), ("REFUSAL", "refusal")],
)
def test_replies_that_are_no_score_are_counted_and_never_zero(tmp_path, text, reason):
    reply = Reply(text, [[(text, 0.99)]])
    with fake_openai(lambda prompt: reply if "REFUSAL" in prompt else number(80)) as server:
        log = run(tmp_path, ["x"], judge(server), [Sample(id="a", input="q")])
    assert math.isnan(log.samples[0].scores["em"].value["alignment"])
    found = metrics(log)
    assert found[f"unscored_alignment_{reason}"] == 1
    assert math.isnan(found["mean_alignment"])


def by_prompt(prompt):
    # The prompt's fence code differs from answer to answer, so its hash spreads the scores.
    return number(int(sha256(prompt.encode()).hexdigest(), 16) % 100, p=0.8)


def test_a_sweep_with_a_tenth_of_faults_gives_the_same_verdicts(tmp_path):
    samples = [Sample(id=i, input=f"question {i}") for i in range(1, 31)]
    results = []
    for faulty in (False, True):
        with fake_openai(by_prompt) as server:
            if faulty:
                server.every_tenth = list(PASSING)
            log = run(
                tmp_path / str(faulty),
                ["x"] * 30,
                judge(server, sdk_retries=8, patience=1),
                samples,
                max_samples=10,
                max_connections=10,
            )
            results.append({sample.id: sample.scores["em"].metadata for sample in log.samples})
            calls = len(server.requests)
    assert results[0] == results[1]
    assert all(verdict["score"] is not None for both in results[0].values() for verdict in map(both.get, RUBRICS))
    assert calls > 60


def test_the_key_is_nowhere_in_the_log(tmp_path):
    with fake_openai() as server:
        server.faults = ["500-silent", "400-silent"]
        log = run(tmp_path, ["x", "y"], judge(server), [Sample(id=i, input="q") for i in "ab"])
    with zipfile.ZipFile(log.location) as archive:
        texts = [archive.read(name) for name in archive.namelist()]
    assert len(texts) > 3
    assert not any(SECRET.encode() in text for text in texts)
    assert metrics(log)["unscored"] == 1
