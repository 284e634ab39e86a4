"""The cache of verdicts: it saves calls, and is never needed to succeed."""

import logging

import anyio
import pytest
from inspect_ai.dataset import Sample

from em_tasks.scorers.judging.cache import VerdictCache
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.judge import ask_judge
from em_tasks.scorers.judging.rubric import load_rubric
from tests.support.fake_openai import Reply, fake_openai, number
from tests.support.scored_logs import metrics, run

pytestmark = pytest.mark.anyio
RUBRIC = load_rubric("alignment")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def unwritable(tmp_path):
    """A cache folder that takes nothing: a file stands in its place (root may write into read-only folders)."""
    path = tmp_path / "cache"
    path.write_text("no folder")
    return path


async def test_a_cache_that_cannot_be_written_loses_no_verdict_and_says_so_once(unwritable, caplog):
    with fake_openai(lambda prompt: number(70)) as server, caplog.at_level(logging.WARNING):
        calls = JudgeCalls(cache=VerdictCache(unwritable))
        judge = server.model()
        first = [await ask_judge(judge, RUBRIC, "q", f"a{at}", calls=calls) for at in range(3)]
        assert [await ask_judge(judge, RUBRIC, "q", f"a{at}", calls=calls) for at in range(3)] == first
        assert len(server.requests) == 3
    assert all(verdict.score is not None for verdict in first)
    notes = [record.getMessage() for record in caplog.records if "cannot be written" in record.getMessage()]
    assert len(notes) == 1
    assert str(unwritable) in notes[0]


async def test_an_eval_over_an_unwritable_cache_succeeds(tmp_path, unwritable):
    with fake_openai(lambda prompt: number(70), cache=str(unwritable)) as server:
        samples = [Sample(id=name, input=f"question {name}") for name in "abc"]
        log = await anyio.to_thread.run_sync(lambda: run(tmp_path / "logs", ["x"] * 3, server.model(), samples))
        assert len(server.requests) == 6
    assert metrics(log)["n_betley"] == 3


async def test_half_a_file_is_never_left_and_foreign_files_are_no_verdicts(tmp_path):
    with fake_openai(lambda prompt: number(70), cache=str(tmp_path)) as server:
        await ask_judge(server.model(), RUBRIC, "q", "a")
        [stored] = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert stored.suffix == ".json"
        for content in ("", "{torn", "[]", "null", '{"score": 3}', "[" * 100_000, '{"score": NaN}'):
            stored.write_text(content)
            assert (await ask_judge(server.model(), RUBRIC, "q", "a")).score is not None
        assert len(server.requests) == 8


async def test_failed_and_empty_replies_are_not_stored(tmp_path):
    with fake_openai(lambda prompt: Reply(""), cache=str(tmp_path)) as server:
        await ask_judge(server.model(logprobs=False), RUBRIC, "q", "a")
        server.always = "400"
        await ask_judge(server.model(), RUBRIC, "q", "b")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_a_cache_that_is_off_is_asked_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("EM_JUDGE_CACHE", "OFF")
    assert VerdictCache().folder is None
    with fake_openai(lambda prompt: number(70)) as server:
        calls = JudgeCalls()
        for _ in range(2):
            await ask_judge(server.model(), RUBRIC, "q", "a", calls=calls)
        assert len(server.requests) == 2
    assert calls.cache.unwritten == {}
