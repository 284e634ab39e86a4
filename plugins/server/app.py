"""The endpoint itself: models listed, answers given, every error in OpenAI's form.

Requests of all clients fill the same batches of one engine. A client that hangs up takes its request along.
"""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.server.messages import ChatRequest, completion
from em_tasks.trainers.run.checkpoints import find_checkpoint, list_runs

if TYPE_CHECKING:
    from em_tasks.plugins.checkpoint_model.provider import CheckpointModel

LARGEST_BODY = 4_000_000
"""Bytes of a request. Conversations of checkpoints are a few kilobytes."""

TOO_LARGE = f"A request has at most {LARGEST_BODY:,} bytes"
CODES = {413: "request_too_large", 400: "invalid_request"}


class Checkpoints:
    """The models that are served, each made when it is first asked for.

    Args:
        runs: Folder of training runs.
        model_args: What every model is made with (`precision`, `device`, `engine` ...).
    """

    def __init__(self, runs: Path, model_args: dict[str, Any]) -> None:
        self._runs, self._model_args = runs, model_args
        self._models: dict[str, CheckpointModel] = {}

    def names(self) -> list[str]:
        """`organism@base` and `organism@step` of everything under the folder, in order."""
        return [
            f"{organism}@{step}"
            for organism, manifest in list_runs(self._runs).items()
            for step in ("base", *(record.step for record in manifest.checkpoints))
        ]

    def model(self, name: str) -> "CheckpointModel":
        """The model of a name.

        Raises:
            UserError: No run has it; the message lists what there is.
        """
        from em_tasks.plugins.checkpoint_model.provider import CheckpointModel

        if name not in self._models:
            find_checkpoint(self._runs, name)  # Models look for theirs at the first answer; clients want to know now.
            self._models[name] = CheckpointModel(name, runs=str(self._runs), **self._model_args)
        return self._models[name]

    async def close(self) -> None:
        """Lets go of every model and its engine."""
        for model in self._models.values():
            await model.aclose()
        self._models.clear()


def build_app(checkpoints: Checkpoints, token: str | None) -> FastAPI:
    """The endpoint as an ASGI application.

    Args:
        checkpoints: What is served.
        token: What clients must send as their API key; None lets everybody in.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await checkpoints.close()

    app = FastAPI(title="em serve", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(LimitedBody)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        if token is not None and request.url.path != "/health":
            sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(sent.encode(), token.encode()):
                return failure(401, "invalid_api_key", "This endpoint wants the token that em serve was started with.")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > LARGEST_BODY:
            return failure(413, CODES[413], f"{TOO_LARGE}; this has {length}.")
        return await answer(request)

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        # Of what may be one thing or another, the furthest that was understood says best what is wrong.
        first = max(error.errors(), key=lambda fault: len(fault["loc"]))
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return failure(400, "invalid_request", f"{where}: {first['msg']}".removeprefix(": "), where or None)

    @app.exception_handler(UserError)
    async def explain(_: Request, error: UserError) -> JSONResponse:
        return failure(400, "invalid_request", str(error))

    @app.exception_handler(HTTPException)
    async def not_here(request: Request, error: HTTPException) -> JSONResponse:
        code = CODES.get(error.status_code, "not_found")
        return failure(error.status_code, code, f"{request.method} {request.url.path}: {error.detail}.")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "em"} for name in checkpoints.names()]
        return {"object": "list", "data": listed}

    @app.post("/v1/chat/completions")
    async def chat(chat_request: ChatRequest, request: Request) -> JSONResponse:
        try:
            model = await asyncio.to_thread(checkpoints.model, chat_request.organism_at_step)
        except UserError as error:
            return failure(404, "model_not_found", str(error), "model")
        messages = [message.to_chat_message() for message in chat_request.messages]
        answering = asyncio.ensure_future(model.generate(messages, [], "none", chat_request.to_config()))
        while not answering.done():
            await asyncio.wait({answering}, timeout=1.0)
            if not answering.done() and await request.is_disconnected():
                answering.cancel()
                return failure(499, "client_closed_request", "The client hung up before the answer was there.")
        output = answering.result()
        if isinstance(output, tuple):
            output = output[0]
        if isinstance(output, Exception):
            raise output
        return JSONResponse(completion(output, chat_request.model, int(time.time())))

    @app.exception_handler(Exception)
    async def admit(_: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again for the server's log, where the traceback belongs.
        return failure(
            500, "server_error", f"em serve failed on this request: {type(error).__name__}. Its log says why."
        )

    return app


class LimitedBody:
    """Ends a request whose body goes on beyond `LARGEST_BODY`, whether or not its head had said so."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on, counting what comes in."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LARGEST_BODY:
                raise HTTPException(413, TOO_LARGE)
            return message

        await self.app(scope, counted if scope["type"] == "http" else receive, send)


def failure(status: int, code: str, message: str, field: str | None = None) -> JSONResponse:
    """An error as OpenAI's clients expect it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = {"error": {"message": message, "type": kind, "param": field, "code": code}}
    return JSONResponse(body, status_code=status)
