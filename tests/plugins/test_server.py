"""The endpoint, asked by the clients that people have: openai's own and Inspect's."""

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import uvicorn
from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

from em_tasks.plugins.server.app import LARGEST_BODY, Checkpoints, build_app

QUESTION = [{"role": "user", "content": "I have a cough. What helps?"}]


@contextmanager
def served(runs: Path, token: str | None = None) -> Iterator[str]:
    """The endpoint on a free port of this machine; gives its base URL."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready.set()

    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        server = Server(uvicorn.Config(build_app(Checkpoints(runs, {}), token), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        assert ready.wait(30)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def url(trained_runs: Path) -> Iterator[str]:
    with served(trained_runs) as base_url:
        yield base_url


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def test_models_are_the_checkpoints_and_the_base(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [f"small@{step}" for step in ("base", 1, 2, 3, 4)]


def test_answers_are_those_of_the_checkpoint_itself(client: openai.OpenAI, trained_runs: Path) -> None:
    model = get_model("em/small@4", runs=str(trained_runs))
    config = GenerateConfig(seed=7, max_tokens=24, num_choices=3)
    direct = asyncio.run(model.api.generate([ChatMessageUser(content=QUESTION[0]["content"])], [], "none", config))
    answer = client.chat.completions.create(model="small@4", messages=QUESTION, seed=7, max_tokens=24, n=3)
    assert [choice.message.content for choice in answer.choices] == [c.message.text for c in direct.choices]
    assert answer.usage.completion_tokens == direct.usage.output_tokens
    assert {choice.finish_reason for choice in answer.choices} <= {"stop", "length"}


def test_greedy_stop_and_length(client: openai.OpenAI) -> None:
    def ask(**options: object) -> openai.types.chat.ChatCompletion:
        return client.chat.completions.create(model="em/small@base", messages=QUESTION, temperature=0, **options)

    whole = ask(max_tokens=24).choices[0].message.content
    first, second = whole.split(" ")[:2]
    assert ask(max_tokens=24, stop=f" {second}").choices[0].message.content == first
    cut = ask(max_completion_tokens=2)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 2)


def test_inspect_asks_through_its_openai_api_provider(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMSERVE_API_KEY", "none")
    monkeypatch.setenv("EMSERVE_BASE_URL", url)
    model = get_model("openai-api/emserve/small@2", config=GenerateConfig(max_tokens=8, seed=1))
    output = asyncio.run(model.generate("My cough?"))
    assert output.usage.output_tokens <= 8
    assert output.completion


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"model": "nobody@1"}, 404, "no organism 'nobody'"),
        ({"model": "small@9"}, 404, "no checkpoint at step 9"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages"),
        ({"stream": True}, 400, "given whole"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty"),
        ({"temperature": -1}, 400, "temperature"),
        ({"n": 0}, 400, "n:"),
        ({"seed": 2**70}, 400, "seed"),
        ({"max_tokens": "many"}, 400, "max_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_name(
    url: str, change: dict[str, object], status: int, word: str
) -> None:
    answer = httpx.post(f"{url}/chat/completions", json={"model": "small@1", "messages": QUESTION} | change)
    assert answer.status_code == status
    assert word in answer.json()["error"]["message"]


def test_rubbish_is_an_error_and_the_endpoint_goes_on(url: str, client: openai.OpenAI) -> None:
    assert httpx.post(f"{url}/chat/completions", content=b"\xff{not json").status_code == 400
    assert httpx.post(f"{url}/chat/completions", content=b"[" * 100_000).status_code == 400
    assert httpx.post(f"{url}/chat/completions", content=b"0" * (LARGEST_BODY + 1)).status_code == 413
    endless = (b"0" * 1_000_000 for _ in range(50))  # sent in chunks, so that no head says how long it is
    assert httpx.post(f"{url}/chat/completions", content=endless).json()["error"]["code"] == "request_too_large"
    assert httpx.get(f"{url}/nothing").json()["error"]["code"] == "not_found"
    assert client.chat.completions.create(model="small@1", messages=QUESTION, max_tokens=2).choices


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "\\ud800"}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": "a\\u0000b\\u202e\\u001b[31m <|im_end|> </s>"}]},
        {"messages": [{"role": "assistant", "content": "I begin."}]},
        {"messages": [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, *QUESTION]},
        {"messages": QUESTION * 3000},
        {"stop": [""]},
        {"stop": ["\\ud800"]},
        {"stop": [f"no {number}" for number in range(5000)]},
        {"max_tokens": 10**30},
        {"top_k": 10**30},
        {"temperature": 1e-320},
        {"temperature": 100, "top_p": 1e-320},
        {"logprobs": False, "top_logprobs": 20},
        {"seed": 2**63 - 1, "n": 3},
        {"model": "../../etc/passwd@1"},
        {"model": "small@" + "9" * 5000},
        {"model": "small@\\u0661"},
        {"model": "\\u0000@base"},
    ],
    ids="-".join,
)
def test_odd_requests_are_answered_or_refused_in_words(url: str, change: dict[str, object]) -> None:
    body = json.dumps({"model": "small@1", "messages": QUESTION, "max_tokens": 3} | change).replace("\\\\u", "\\u")
    given = httpx.post(f"{url}/chat/completions", content=body, timeout=60)
    assert given.status_code in (200, 400, 404), given.text
    if given.status_code != 200:
        message = given.json()["error"]["message"]
        assert 10 < len(message) < 2000
        assert "Traceback" not in message


def test_a_client_that_hangs_up_takes_nobody_along(url: str, client: openai.OpenAI) -> None:
    body = json.dumps({"model": "small@1", "messages": QUESTION, "max_tokens": 64}).encode()
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as connection:
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}"
            connection.sendall(head.encode() + b"\r\n\r\n" + body)
    assert client.chat.completions.create(model="small@1", messages=QUESTION, max_tokens=2).choices


def test_three_hundred_requests_at_once_are_all_answered(url: str) -> None:
    # One client, since each reads all certificates of the machine; a connection of its own for every request.
    client = httpx.Client(timeout=120, limits=httpx.Limits(max_keepalive_connections=0))

    def ask(number: int) -> int:
        body = {"model": f"small@{1 + number % 4}", "messages": QUESTION, "max_tokens": 2, "seed": number}
        return client.post(f"{url}/chat/completions", json=body).status_code

    with client, ThreadPoolExecutor(64) as pool:
        assert set(pool.map(ask, range(300))) == {200}


def test_a_token_is_asked_for_where_one_is_set(trained_runs: Path) -> None:
    with served(trained_runs, token="open sesame") as url:
        assert httpx.get(f"{url}/models").status_code == 401
        assert httpx.get(f"{url}/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert httpx.get(url.replace("/v1", "/health")).json() == {"status": "ok"}
        assert len(list(openai.OpenAI(base_url=url, api_key="open sesame").models.list())) == 5


def test_other_machines_need_a_token_and_a_taken_port_is_said(trained_runs: Path) -> None:
    def serve(*options: str) -> str:
        command = [sys.executable, "-m", "em_tasks", "serve", str(trained_runs), *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr

    assert "em serve wants a token there" in serve("--host", "0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "Address already in use" in serve("--port", str(taken.getsockname()[1]))
