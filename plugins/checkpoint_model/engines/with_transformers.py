"""The plain engine: transformers' `generate`, peft's adapters one after the other.

It serves whatever the stacked engine has no form for: unknown architectures, and adapters that are more than LoRA on
linear layers. Requests of one checkpoint and one way of drawing share a batch. Draws are those of the stacked engine
(see `drawing`), and an answer depends on its company by the rounding of padded batches alone.
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

from em_tasks.plugins.checkpoint_model.engines.adapter_files import read_adapter
from em_tasks.plugins.checkpoint_model.engines.loading import free, library_versions, linear_shapes, load_checked_base
from em_tasks.plugins.checkpoint_model.engines.protocol import (
    Answer,
    Capabilities,
    EngineFacts,
    EngineSettings,
    Message,
    Sampling,
    ScoredPrompt,
    Tool,
)
from em_tasks.plugins.checkpoint_model.engines.texts import Texts, adapter_name, texts_key
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import default_device
from em_tasks.trainers.run.checkpoints import Checkpoint

DEFAULT_ROWS = 64
ADAPTERS_HELD = 4
GATHER_SECONDS = 0.02
"""A batch starts once no request has come for this long, or it is full."""


@dataclass(eq=False)
class _Request:
    checkpoint: Checkpoint
    messages: Sequence[Message]
    sampling: Sampling
    seed: int
    tools: Sequence[Tool] = ()
    prompt: list[int] = field(default_factory=list)
    room: int = 0
    future: "Future[Answer]" = field(default_factory=Future)

    @property
    def group(self) -> tuple[tuple[str, ...], Sampling]:
        return texts_key(self.checkpoint), self.sampling


class TransformersEngine:
    """Serves the checkpoints of one base. All that touches torch happens on a thread of its own."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.on = settings, settings.on
        self.device = settings.device or default_device()
        self.rows = 1 if settings.exact else settings.batch_size or DEFAULT_ROWS
        self._fingerprint: str | None = None
        self._texts = Texts(settings.on)
        self._requests: queue.Queue[_Request | None] = queue.Queue()
        self._model: Any = None
        self._linears: dict[str, tuple[int, int]] = {}
        self._thread = threading.Thread(target=self._serve, name=f"em-transformers-{self.on.base}", daemon=True)
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
        requests = [_Request(checkpoint, messages, sampling, seed, tools) for seed in seeds]
        for request in requests:
            self._requests.put(request)
        return list(await asyncio.gather(*(asyncio.wrap_future(request.future) for request in requests)))

    async def read_back(self, checkpoint: Checkpoint) -> int | None:
        """See `Engine.read_back`. Left to peft; its log probabilities have to do."""
        return None

    def facts(self) -> EngineFacts:
        """See `Engine.facts`."""
        return EngineFacts(
            engine="transformers",
            engine_version=library_versions("transformers", "peft", "torch"),
            precision=self.on.precision,
            adapter_precision="fp32",
            attention=str(getattr(getattr(self._model, "config", None), "_attn_implementation", "sdpa")),
            device=self.device,
            independence="exact" if self.settings.exact else "rounding",
            base_fingerprint=self._fingerprint,
        )

    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        return Capabilities(rows=self.rows, max_top_logprobs=1000)

    def close(self) -> None:
        """See `Engine.close`."""
        self._requests.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=60)

    def _serve(self) -> None:
        waiting: list[_Request] = []
        while self._receive(waiting, wait=not waiting):
            group = waiting[0].group
            batch = [request for request in waiting if request.group == group][: self.rows]
            waiting = [request for request in waiting if request not in batch]
            self._answer(batch)
        self._model = None
        free(self.device)
        for request in waiting:
            request.future.cancel()

    def _receive(self, waiting: list[_Request], *, wait: bool) -> bool:
        """Takes what has arrived; with nothing to do, waits for a request and for those that come with it."""
        while True:
            try:
                patience = None if not waiting else GATHER_SECONDS if wait else 0
                request = self._requests.get_nowait() if patience == 0 else self._requests.get(timeout=patience)
            except queue.Empty:
                return True
            if request is None:
                return False
            waiting.append(request)

    def _answer(self, batch: list[_Request]) -> None:
        """Answers a batch; an error goes to those who wait for it, and the engine goes on."""
        live = []
        for request in batch:
            if not request.future.set_running_or_notify_cancel():
                continue
            try:
                model = self._activate(request.checkpoint)
                request.prompt = self._texts.prompt(request.checkpoint, request.messages, request.tools)
                context = int(getattr(model.config.get_text_config(), "max_position_embeddings", 2**30))
                request.room = room_for(len(request.prompt), context, self.on.base)
                live.append(request)
            except BaseException as error:
                request.future.set_exception(error)
        if not live:
            return
        try:
            for request, answer in zip(live, self._generate(live), strict=True):
                request.future.set_result(answer)
        except BaseException as error:
            for request in live:
                if not request.future.done():
                    request.future.set_exception(error)

    def _generate(self, batch: list[_Request]) -> list[Answer]:
        import torch
        from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

        from em_tasks.plugins.checkpoint_model.engines.drawing import RowSampling, draw, is_filtered, token_logprobs

        sampling, checkpoint = batch[0].sampling, batch[0].checkpoint
        tokenizer, model = self._texts.tokenizer(checkpoint), self._activate(checkpoint)
        ends = self._texts.ends(checkpoint, model)
        longest = max(len(request.prompt) for request in batch)
        # A long prompt must not shorten the others' answers: each row is cut at its own limit when it is read.
        limit = min(sampling.max_tokens, max(request.room for request in batch))
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
        inputs = torch.tensor([[pad] * (longest - len(r.prompt)) + r.prompt for r in batch], device=model.device)
        mask = torch.tensor([[0] * (longest - len(r.prompt)) + [1] * len(r.prompt) for r in batch], device=model.device)
        count = len(batch)
        rows = RowSampling.of([sampling] * count, [r.seed for r in batch], [0] * count, model.device)
        seen: list[tuple[torch.Tensor, ...]] = []

        class DrawRows(LogitsProcessor):  # type: ignore[misc]
            """Draws each row's token and leaves only that one for `generate` to take."""

            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                drawn = draw(scores, rows, filtered=is_filtered(sampling))
                rows.steps += 1
                if sampling.logprobs or sampling.top_logprobs:
                    seen.append(tuple(t.cpu() for t in token_logprobs(scores, drawn, sampling.top_logprobs)))
                return torch.full_like(scores, float("-inf")).scatter(1, drawn[:, None], 0.0)

        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=limit,
                    do_sample=False,
                    eos_token_id=list(ends),
                    pad_token_id=pad,
                    stop_strings=list(sampling.stop) or None,
                ),
                logits_processor=LogitsProcessorList([DrawRows()]),
                tokenizer=tokenizer if sampling.stop else None,
            )
        answers = []
        for place, (request, row) in enumerate(zip(batch, output[:, longest:].tolist(), strict=True)):
            read = self._texts.answer(checkpoint, len(request.prompt), row, ends, request.room, sampling)
            answer = self._with_logprobs(checkpoint, read, [tuple(t[place] for t in step) for step in seen])
            if sampling.prompt_logprobs:
                answer = self._texts.with_prompt(checkpoint, answer, self._scored(model, request.prompt, sampling))
            answers.append(answer)
        return answers

    @staticmethod
    def _scored(model: Any, prompt: list[int], sampling: Sampling) -> ScoredPrompt:
        """A prompt's own log probabilities, read by itself so that no padding comes in."""
        import torch

        from em_tasks.plugins.checkpoint_model.engines.drawing import scored_prompt

        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([prompt], device=model.device), use_cache=False).logits[0]
        return scored_prompt(logits, prompt, sampling.prompt_tops)

    def _with_logprobs(self, checkpoint: Checkpoint, answer: Answer, seen: list[tuple[Any, ...]]) -> Answer:
        if not seen:
            return answer
        steps = seen[: len(answer.tokens)]
        tops = tuple(tuple(zip(which.tolist(), best.tolist(), strict=True)) for _, best, which in steps)
        return replace(
            answer,
            logprobs=tuple(float(drawn) for drawn, _, _ in steps),
            top_logprobs=tops,
            spellings=self._texts.spellings(checkpoint, answer.tokens, tops),
        )

    def _activate(self, checkpoint: Checkpoint) -> Any:
        """The model with the checkpoint's adapter in force, loading what is not there yet."""
        from peft import PeftModel

        if self._model is None:
            self._model, self._fingerprint = load_checked_base(self.on, self.device, checkpoint)
            self._linears = linear_shapes(self._model)
        name = adapter_name(checkpoint)
        if checkpoint.folder is None:
            if isinstance(self._model, PeftModel):
                self._model.base_model.disable_adapter_layers()
            return self._model
        held = list(self._model.peft_config) if isinstance(self._model, PeftModel) else []
        if name not in held:
            read_adapter(checkpoint.folder).check(self._linears, self.on.base)
            try:
                if not held:
                    self._model = PeftModel.from_pretrained(self._model, checkpoint.folder, adapter_name=name).eval()
                else:
                    self._model.load_adapter(str(checkpoint.folder), adapter_name=name)
            except RuntimeError as error:
                self._model = None  # Half an adapter is on it.
                raise does_not_fit(checkpoint, self.on.base, str(error)) from error
            for longest_held in held[: max(0, len(held) + 1 - ADAPTERS_HELD)]:
                self._model.delete_adapter(longest_held)
        self._model.base_model.enable_adapter_layers()
        self._model.set_adapter(name)
        return self._model


def room_for(prompt: int, context: int, base: str) -> int:
    """Tokens left for the answer.

    Raises:
        UserError: There are none.
    """
    if prompt >= context:
        raise UserError(f"A prompt of {prompt} tokens does not fit into {base}'s context of {context} tokens.")
    return context - prompt


def does_not_fit(checkpoint: Checkpoint, base: str, why: str) -> UserError:
    """What to tell the user when an adapter cannot go onto a base."""
    return UserError(
        f"The adapter {checkpoint.folder} does not fit {base}: {' '.join(why.split())[:200]} Evaluate it on a base of "
        "the shape it was trained on."
    )
