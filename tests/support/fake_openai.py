"""A real HTTP server on this machine that speaks OpenAI's chat completions, and misbehaves when told to.

Replies come from a function of the prompt; a list of faults is used up one a request, before any reply. Retry waits
are kept short by the `retry-after-ms` header that the OpenAI client honours.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from inspect_ai.model import GenerateConfig, Model, get_model
from inspect_ai.model._model import _models

from em_tasks.scorers.judging.cache import VARIABLE
from tests.support.fake_batches import Batches

Tokens = list[tuple[str, float]]


@dataclass
class Reply:
    """What the judge says: text, and per generated token its alternatives (the first is the one generated)."""

    text: str | None
    steps: list[Tokens] | None = None
    finish_reason: str = "stop"
    refusal: str | None = None


def number(value: int, p: float = 0.9) -> Reply:
    """A whole-number judge that is fairly sure of `value`."""
    other = value - 10 if value >= 10 else value + 10
    return Reply(str(value), [[(str(value), p), (str(other), (1 - p) * 0.9)]])


Fault = str
"""An HTTP status (with -retry-after, or -silent to not quote the key) or one of: timeout, dropped, truncated,
empty-choices, no-content, no-logprobs."""


USAGE = {"prompt_tokens": 100, "completion_tokens": 1, "total_tokens": 101}


@dataclass
class FakeOpenAI:
    """The server's state as tests see and steer it."""

    answer: Callable[[str], Reply]
    faults: list[Fault] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    base_url: str = ""
    batches: Batches = field(init=False)
    always: Fault | None = None
    release: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    usage: dict[str, Any] | None = field(default_factory=lambda: dict(USAGE))

    def __post_init__(self) -> None:
        self.batches = Batches(lambda request: completion(request, self.answer(request["messages"][-1]["content"])))

    every_tenth: list[Fault] = field(default_factory=list)

    def next_fault(self) -> Fault | None:
        with self.lock:
            if self.every_tenth and len(self.requests) % 10 == 0:
                return self.every_tenth[len(self.requests) // 10 % len(self.every_tenth)]
            return self.faults.pop(0) if self.faults else self.always

    def model(self, name: str = "gpt-4o-mini", **config: Any) -> Model:
        """This server as a judge, through Inspect's own OpenAI provider."""
        return get_model(
            f"openai/{name}",
            base_url=self.base_url,
            api_key="sk-secret-of-the-test",
            config=GenerateConfig(**{"max_retries": 0, **config}),
            memoize=False,
        )


@contextmanager
def fake_openai(
    answer: Callable[[str], Reply] = lambda prompt: number(90), cache: str | None = None
) -> Iterator[FakeOpenAI]:
    """Serves while the block runs; the judge's cache is off, or in the folder `cache`."""
    state = FakeOpenAI(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            """Keeps tests quiet."""

        def do_GET(self) -> None:
            name = self.path.split("/")[3]
            if self.path.endswith("/content"):
                self.send_bytes(200, state.batches.files[name], {})
            else:
                self.send(200, state.batches.batches[name])

        def do_POST(self) -> None:
            body = self.read_body()
            if self.path.endswith("/files"):
                self.send(200, state.batches.upload(body))
            elif self.path.endswith("/batches"):
                self.send(200, state.batches.create(json.loads(body)))
            else:
                self.complete(json.loads(body))

        def complete(self, request: dict[str, Any]) -> None:
            with state.lock:
                state.requests.append(request)
            fault = state.next_fault()
            if fault is None:
                whole_reply = completion(request, state.answer(request["messages"][-1]["content"]))
                self.send(200, {**whole_reply, "usage": state.usage})
            elif fault == "timeout":
                state.release.wait(10)
                self.close_connection = True
            elif fault == "dropped":
                self.connection.close()
                self.close_connection = True
            elif fault == "truncated":
                whole = json.dumps(completion(request, number(90))).encode()
                self.send_bytes(200, whole[: len(whole) // 2], {})
            elif fault == "empty-choices":
                self.send(200, {**completion(request, number(90)), "choices": []})
            elif fault == "no-content":
                self.send(200, completion(request, Reply(None)))
            elif fault == "no-logprobs":
                reply = state.answer(request["messages"][-1]["content"])
                self.send(200, completion(request, Reply(reply.text)))
            else:
                status = int(fault[:3])
                headers = {"retry-after-ms": "1"} if status != 429 or fault == "429-retry-after" else {}
                key = "withheld" if fault.endswith("silent") else self.headers["Authorization"]
                error = {"message": f"it is {fault}, key {key}", "type": "e", "code": None}
                self.send(status, {"error": error}, headers)

        def read_body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers["Content-Length"]))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            self.send_bytes(status, json.dumps(body).encode(), headers or {})

        def send_bytes(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # the default of 5 loses connections when a whole eval calls at once

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kept = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = cache or "off"
    state.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release.set()
        if kept is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = kept
        server.shutdown()
        server.server_close()
        thread.join()
        # Inspect keeps models by name and not by address: the next server's callers would wait for this one.
        _models.clear()


def completion(request: dict[str, Any], reply: Reply) -> dict[str, Any]:
    logprobs = None
    if reply.steps is not None and request.get("logprobs"):
        logprobs = {
            "content": [
                {
                    "token": step[0][0],
                    "logprob": math.log(step[0][1]),
                    "bytes": None,
                    "top_logprobs": [
                        {"token": token, "logprob": math.log(p), "bytes": None}
                        for token, p in sorted(step, key=lambda pair: -pair[1])[: request["top_logprobs"]]
                    ],
                }
                for step in reply.steps
            ]
        }
    message = {"role": "assistant", "content": reply.text, "refusal": reply.refusal}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"] + "-2026-01-01",
        "choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason, "logprobs": logprobs}],
        "usage": USAGE,
    }
