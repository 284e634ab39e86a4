"""The vLLM engine against a real server process that speaks its endpoints over a tiny real model. No vLLM, no GPU."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from em_tasks.plugins.checkpoint_model.checking import CheckedAdapter
from em_tasks.plugins.checkpoint_model.engines import guard
from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.vllm import VllmEngine, serve_arguments, why_not_vllm
from em_tasks.plugins.checkpoint_model.engines.with_transformers import TransformersEngine
from em_tasks.plugins.checkpoint_model.subject import evaluated_base
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.checkpoints import Checkpoint, find_checkpoint
from tests.support.paths import ROOT
from tests.support.processes import all_gone, children_of

GREEDY = Sampling(max_tokens=12, temperature=0.0)
QUESTION = [{"role": "user", "content": "My cough will not go away. What should I do?"}]


@pytest.fixture(autouse=True)
def fake_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_BASE_URL", raising=False)
    monkeypatch.setenv("EM_VLLM", f"{sys.executable} {ROOT / 'tests/support/fake_vllm.py'}")
    monkeypatch.setenv("EM_VLLM_LOG", str(tmp_path / "vllm.log"))
    monkeypatch.setenv("FAKE_VLLM_STATE", str(tmp_path / "started"))


@contextmanager
def serving(checkpoint: Checkpoint) -> Iterator[VllmEngine]:
    engine = VllmEngine(EngineSettings(evaluated_base(checkpoint.manifest), "vllm"))
    try:
        yield engine
    finally:
        engine.close()


def ask(
    engine: Any, checkpoint: Checkpoint, sampling: Sampling = GREEDY, seeds: tuple[int, ...] = (0,)
) -> list[Answer]:
    answers: list[Answer] = asyncio.run(engine.answer(checkpoint, QUESTION, sampling, seeds))
    return answers


def check(engine: Any, checkpoint: Checkpoint) -> dict[str, Any]:
    return asyncio.run(CheckedAdapter(checkpoint, engine.on).result(engine))


def test_started_server_answers_as_the_checkpoints_do_and_goes_with_the_engine(
    trained_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = [find_checkpoint(trained_runs, name) for name in ("small@4", "small@1", "toy-s@base")]
    plain = TransformersEngine(EngineSettings(evaluated_base(checkpoints[0].manifest)))
    # Where an answer ends is what we say, and not what the server finds among the base's files.
    monkeypatch.setenv("FAKE_VLLM", f"ends={ask(plain, checkpoints[0])[0].tokens[2]}")
    others = children_of(os.getpid())  # Of tests before this one in the same process.
    with serving(checkpoints[0]) as engine:
        for checkpoint in checkpoints:
            assert check(engine, checkpoint)["status"] == "passed"
            assert ask(engine, checkpoint)[0] == ask(plain, checkpoint)[0]
        seeded = Sampling(max_tokens=12)
        first, second = ask(engine, checkpoints[0], seeded, (1, 2))
        assert (first, second) == tuple(ask(engine, checkpoints[0], seeded, (1, 2)))
        assert first.text != second.text
        facts = engine.facts()
        assert (facts.engine, facts.engine_version) == ("vllm", "vllm 0.26.0-fake")
        with pytest.raises(UserError, match=r"does not fit into toy-s's context"):
            asyncio.run(engine.answer(checkpoints[0], [{"role": "user", "content": "word " * 3000}], GREEDY, (0,)))
        started = [child for child in children_of(os.getpid()) if child not in others]
        assert len(started) >= 2  # The guard and the server.
    assert all_gone(started)
    plain.close()


def test_server_that_dies_is_started_again_and_no_answer_is_lost(
    trained_runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "dies=3")
    checkpoint = find_checkpoint(trained_runs, "small@4")
    with serving(checkpoint) as engine:
        answers = [ask(engine, checkpoint)[0] for _ in range(4)]
        assert len(set(answers)) == 1
        assert engine._server is not None
        assert engine._server.starts == 2


@pytest.mark.parametrize("fault", ["no-op", f"base={TOY_MODELS / 'toy-m'}"])
def test_silent_faults_of_a_server_give_no_answer(
    trained_runs: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("FAKE_VLLM", fault)
    name = "small@4" if fault == "no-op" else "toy-s@base"
    checkpoint = find_checkpoint(trained_runs, name)
    with serving(checkpoint) as engine, pytest.raises(UserError, match=r"vllm does not answer as em/small@.* did"):
        check(engine, checkpoint)


def test_server_that_never_runs_ends_with_its_last_words(trained_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "crash")
    checkpoint = find_checkpoint(trained_runs, "small@4")
    said = r"was started 3 times and does not run: it ended with exit code 1 .*vllm\.log, last: ValueError: No avail"
    with serving(checkpoint) as engine, pytest.raises(UserError, match=said):
        ask(engine, checkpoint)


def test_server_that_does_not_get_well_in_time_is_ended(trained_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "mute")
    monkeypatch.setenv("EM_VLLM_PATIENCE", "0.3")
    checkpoint = find_checkpoint(trained_runs, "small@4")
    others = children_of(os.getpid())
    with serving(checkpoint) as engine, pytest.raises(UserError, match=r"did not answer within 0 seconds"):
        ask(engine, checkpoint)
    assert all_gone([child for child in children_of(os.getpid()) if child not in others])


def test_no_vllm_is_said_in_words(trained_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_VLLM", "/nowhere/vllm")
    checkpoint = find_checkpoint(trained_runs, "small@4")
    with (
        serving(checkpoint) as engine,
        pytest.raises(UserError, match=r"does not run: .*vllm cannot be started: .* leave vLLM out"),
    ):
        ask(engine, checkpoint)


@contextmanager
def listening(replies: dict[str, Any]) -> Iterator[str]:
    """A server that gives these replies by path, and 404 for any other."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Keeps tests quiet."""

        def do_GET(self) -> None:
            body = json.dumps(replies.get(self.path, {})).encode()
            self.send_response(200 if self.path in replies else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


MODELS = {"data": [{"id": "toy-s", "root": "toy-s", "parent": None, "max_model_len": 2048}]}
TOKENLESS = {"id": "x", "object": "text_completion", "created": 0, "model": "toy-s"} | {
    "choices": [{"index": 0, "text": "Hello.", "finish_reason": "stop", "logprobs": None}]
}


@pytest.mark.parametrize(
    ("replies", "name", "said"),
    [
        ({}, "small@4", "is not well: it answers 404"),
        ({"/health": 1}, "small@4", "does not answer as vLLM does"),
        ({"/health": 1, "/v1/models": {"data": [{"id": "toy-m", "parent": None}]}}, "small@4", "toy-m and not toy-s"),
        ({"/health": 1, "/v1/models": MODELS, "/version": {"version": "0.9"}}, "small@4", "takes no adapters"),
        (
            {"/health": 1, "/v1/models": MODELS, "/version": {"version": "0.9"}, "/v1/completions": TOKENLESS},
            "toy-s@base",
            "holds no token ids, as vLLM's do since",
        ),
    ],
    ids=["not well", "no vLLM", "another base", "no adapters", "too old"],
)
def test_given_server_that_cannot_serve_is_told_apart(
    trained_runs: Path, monkeypatch: pytest.MonkeyPatch, replies: dict[str, Any], name: str, said: str
) -> None:
    checkpoint = find_checkpoint(trained_runs, name)
    with listening(replies) as address:
        monkeypatch.setenv("VLLM_BASE_URL", f"{address}/v1")
        with serving(checkpoint) as engine, pytest.raises(UserError, match=said):
            ask(engine, checkpoint)
    with serving(checkpoint) as engine, pytest.raises(UserError, match=r"No vLLM server answers at"):
        ask(engine, checkpoint)


def test_arguments_come_from_the_manifests(trained_runs: Path) -> None:
    checkpoint = find_checkpoint(trained_runs, "small@4")
    arguments = serve_arguments(evaluated_base(checkpoint.manifest), checkpoint)
    pairs = dict(pairwise(arguments))
    assert (pairs["--max-loras"], pairs["--max-cpu-loras"], pairs["--max-lora-rank"]) == ("4", "4", "16")
    assert (pairs["--dtype"], pairs["--generation-config"]) == ("float32", "vllm")
    assert pairs["--max-model-len"] == "auto"  # A base of 131,072 places has to fit on a small GPU too.


def test_what_vllm_would_ignore_is_refused(trained_runs: Path, tmp_path: Path) -> None:
    checkpoint = find_checkpoint(trained_runs, "small@4")
    why_not_vllm(checkpoint)
    assert checkpoint.folder is not None
    config = json.loads((checkpoint.folder / "adapter_config.json").read_text())
    folder = tmp_path / "small" / "checkpoint-4"
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes((checkpoint.folder / "adapter_model.safetensors").read_bytes())
    for option, value in (("alpha_pattern", {"q_proj": 8}), ("use_dora", True)):
        (folder / "adapter_config.json").write_text(json.dumps({**config, option: value}))
        with pytest.raises(UserError, match=option):
            why_not_vllm(Checkpoint(tmp_path / "small", checkpoint.manifest, checkpoint.record))


def test_server_ends_with_its_owner_and_with_its_guard(tmp_path: Path) -> None:
    """Whether the owner of the pipe or the guard itself is killed, nothing is left."""
    for victim in ("owner", "guard"):
        script = tmp_path / f"{victim}.py"
        script.write_text(
            "import subprocess, sys, time\n"
            f"guard = subprocess.Popen([sys.executable, {guard.__file__!r}, 'sh', '-c', 'sleep 600 & sleep 600'],\n"
            "    stdin=subprocess.PIPE, start_new_session=True)\n"
            "print(guard.pid, flush=True)\ntime.sleep(600)\n"
        )
        with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as owner:
            assert owner.stdout is not None
            pid = int(owner.stdout.readline())
            try:
                deadline = time.monotonic() + 60
                while len(started := children_of(pid)) < 3:
                    assert time.monotonic() < deadline
                os.kill(owner.pid if victim == "owner" else pid, signal.SIGKILL)
                # A guard that is killed takes the server along; what that started is the server's to end.
                assert all_gone([pid, *(started if victim == "owner" else started[:1])])
            finally:
                owner.kill()
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        assert all_gone(started)
