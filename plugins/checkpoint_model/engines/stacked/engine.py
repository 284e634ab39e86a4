"""The stacked engine: requests of all checkpoints of a base fill the same batches.

A thread of its own takes requests as they come, reads each prompt once for all answers to it, and lets the rows write.
A row that ends leaves, and a waiting one takes its place; nothing waits for the slowest. The thread sleeps while there
is nothing to do.

What an answer depends on: its seed, checkpoint, prompt and way of drawing. In fp32 on a CPU it is the same, bit for
bit, whatever shares its batch. On a GPU in bf16 it is not: matrix products of other sizes round otherwise, and where
two candidates are that close another token is drawn, after which the answers go apart. With `exact` everything that
decides a product's size is fixed (rows, columns, adapter slots; prompts are read one by one), and rows share a batch
only where those sizes are the same: then an answer does not depend on its company, at a cost (docs/performance.md).
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from em_tasks.plugins.checkpoint_model.engines.loading import free, library_versions, linear_shapes, load_checked_base
from em_tasks.plugins.checkpoint_model.engines.protocol import (
    Answer,
    Capabilities,
    EngineFacts,
    EngineSettings,
    Message,
    Sampling,
    Tool,
)
from em_tasks.plugins.checkpoint_model.engines.stacked.rows import Row
from em_tasks.plugins.checkpoint_model.engines.texts import Texts, adapter_name, texts_key
from em_tasks.plugins.checkpoint_model.engines.with_transformers import room_for
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import default_device
from em_tasks.trainers.run.checkpoints import Checkpoint

if TYPE_CHECKING:
    from em_tasks.plugins.checkpoint_model.engines.stacked.writing import Writing

GATHER_SECONDS = 0.01
"""After a rest, rows start once no request has come for this long."""

KEPT_PROMPTS = 4096
USUAL_ROWS = 512
CLOSED = "The engine was closed while answers were under way."


@dataclass(eq=False)
class _Request:
    checkpoint: Checkpoint
    messages: Sequence[Message]
    sampling: Sampling
    seeds: Sequence[int]
    futures: "list[Future[Answer]]" = field(default_factory=list)
    tools: Sequence[Tool] = ()


@dataclass(eq=False)
class _Reading:
    """What is asked by `read_back`."""

    checkpoint: Checkpoint
    future: "Future[int | None]" = field(default_factory=Future)


class StackedEngine:
    """Serves the checkpoints of one base."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.on = settings, settings.on
        self.device = settings.device or default_device()
        self._texts = Texts(settings.on)
        self._fingerprint: str | None = None
        self._attention = "none yet"
        self._requests: queue.Queue[_Request | _Reading | None] = queue.Queue()
        self._prompts: dict[tuple[tuple[str, ...], str], tuple[int, ...]] = {}
        self._model_ends: Any = None
        self._writing: Writing | None = None
        self._thread = threading.Thread(target=self._serve, name=f"em-stacked-{self.on.base}", daemon=True)
        self._thread.start()

    async def answer(
        self,
        checkpoint: Checkpoint,
        messages: Sequence[Message],
        sampling: Sampling,
        seeds: Sequence[int],
        tools: Sequence[Tool] = (),
    ) -> list[Answer]:
        """See `Engine.answer`."""
        request = _Request(checkpoint, messages, sampling, seeds, [Future() for _ in seeds], tools)
        self._requests.put(request)
        return list(await asyncio.gather(*(asyncio.wrap_future(future) for future in request.futures)))

    async def read_back(self, checkpoint: Checkpoint) -> int | None:
        """See `Engine.read_back`. An adapter is compared whenever it comes into a slot, too."""
        reading = _Reading(checkpoint)
        self._requests.put(reading)
        return await asyncio.wrap_future(reading.future)

    def facts(self) -> EngineFacts:
        """See `Engine.facts`."""
        numbers = "fp32" if self.on.precision == "fp32" else "bf16"
        return EngineFacts(
            engine="stacked",
            engine_version=library_versions("em-tasks", "torch", "transformers"),
            precision=self.on.precision,
            adapter_precision=numbers,
            attention=self._attention,
            device=self.device,
            independence="exact" if self.settings.exact else "rounding",
            base_fingerprint=self._fingerprint,
        )

    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        return Capabilities(rows=self.settings.batch_size or USUAL_ROWS, max_top_logprobs=1000)

    def close(self) -> None:
        """See `Engine.close`."""
        self._requests.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=60)

    def _serve(self) -> None:
        """The engine's thread: all that touches torch happens here."""
        while self._receive():
            if self._writing is not None:
                self._writing.advance()
        if self._writing is not None:
            self._writing.abandon(UserError(CLOSED))
        self._writing = None
        free(self.device)

    def _receive(self) -> bool:
        """Takes what has arrived; with nothing to do, waits for it and for what comes with it."""
        resting = self._writing is None or self._writing.idle
        while True:
            try:
                request = self._requests.get(timeout=None if resting else 0) if resting else self._requests.get_nowait()
            except queue.Empty:
                return True
            while request is not None:
                if isinstance(request, _Reading):
                    self._compare(request)
                else:
                    self._take(request)
                if not resting:
                    break
                try:
                    request = self._requests.get(timeout=GATHER_SECONDS)
                except queue.Empty:
                    return True
            if request is None:
                return False

    def _take(self, request: _Request) -> None:
        """Turns a request into rows; what is wrong with it is told to it alone."""
        live = [future for future in request.futures if future.set_running_or_notify_cancel()]
        try:
            writing = self._loaded(request.checkpoint)
            checkpoint = request.checkpoint
            adapter = None if checkpoint.folder is None else adapter_name(checkpoint)
            if adapter is not None and checkpoint.folder is not None:
                writing.stack.inspect(adapter, checkpoint.folder)
            prompt = self._prompt(checkpoint, request.messages, request.tools)
            room = room_for(len(prompt), writing.context, self.on.base)
            ends = self._texts.ends(checkpoint, self._model_ends)
            for future, seed in zip(request.futures, request.seeds, strict=True):
                if future in live:
                    writing.add(Row(checkpoint, adapter, prompt, ends, room, request.sampling, seed, future))
        except BaseException as error:
            for future in live:
                if not future.done():
                    future.set_exception(error)

    def _compare(self, reading: _Reading) -> None:
        """Compares what is held for a checkpoint with its file."""
        if not reading.future.set_running_or_notify_cancel():
            return
        try:
            name = adapter_name(reading.checkpoint)
            reading.future.set_result(None if self._writing is None else self._writing.stack.compare(name))
        except BaseException as error:
            reading.future.set_exception(error)

    def _prompt(self, checkpoint: Checkpoint, messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[int, ...]:
        key = texts_key(checkpoint), repr((messages, tools))
        if key not in self._prompts:
            if len(self._prompts) >= KEPT_PROMPTS:
                self._prompts.clear()
            self._prompts[key] = tuple(self._texts.prompt(checkpoint, messages, tools))
        return self._prompts[key]

    def _loaded(self, checkpoint: Checkpoint) -> "Writing":
        """The base on the device, loaded at the first request."""
        if self._writing is None:
            from em_tasks.plugins.checkpoint_model.engines.stacked.attention import kernel_name
            from em_tasks.plugins.checkpoint_model.engines.stacked.decoder import Decoder
            from em_tasks.plugins.checkpoint_model.engines.stacked.families import why_no_form
            from em_tasks.plugins.checkpoint_model.engines.stacked.stack import Stack
            from em_tasks.plugins.checkpoint_model.engines.stacked.writing import Writing

            model, self._fingerprint = load_checked_base(self.on, self.device, checkpoint)
            if reason := why_no_form(model.config):
                raise UserError(
                    f"The stacked engine cannot serve {self.on.base}: {reason}. Evaluate it with "
                    "-M engine=transformers, or leave -M engine out."
                )
            linears = linear_shapes(model)
            self._model_ends = _Ends(model.generation_config)
            decoder = Decoder(model)
            del model
            self._attention = kernel_name(decoder.layers[0].form, decoder.embedding)
            stack = Stack(decoder, linears, self.on.base)
            self._writing = Writing(decoder, stack, self._texts, self.settings.batch_size, exact=self.settings.exact)
        return self._writing


@dataclass(frozen=True)
class _Ends:
    """What is left of the model for `Texts.ends`."""

    generation_config: Any
