"""One base model in memory and every checkpoint's adapter on it.

Requests of many samples arrive one by one, are gathered into batches of one checkpoint and one sampling setting, and
are answered by transformers' `generate`. Every row draws from a random stream of its own, so an answer depends on its
seed, checkpoint and prompt and not on what else was in the batch.
"""

import hashlib
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from em_tasks.plugins.checkpoint_model.engines.sampling import Sampling, row_sampler
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.base import default_device, fingerprint, load_base, load_tokenizer
from em_tasks.trainers.data.tokens import encode_prompt
from em_tasks.trainers.run.checkpoints import Checkpoint, verify

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

BASE = "__base__"
GATHER_SECONDS = 0.02
"""A batch starts once no request has come for this long, or it is full."""


@dataclass(frozen=True)
class Answer:
    """One generated answer. Token counts are of real tokens, the end-of-turn token included."""

    text: str
    stop_reason: Literal["stop", "max_tokens", "model_length"]
    input_tokens: int
    output_tokens: int


@dataclass(eq=False)
class _Request:
    checkpoint: Checkpoint
    messages: Sequence[dict[str, str]]
    sampling: Sampling
    seed: int
    prompt: list[int] = field(default_factory=list)
    room: int = 0
    future: "Future[Answer]" = field(default_factory=Future)

    @property
    def group(self) -> tuple[str, Sampling]:
        return adapter_name(self.checkpoint), self.sampling


def adapter_name(checkpoint: Checkpoint) -> str:
    """The name under which a checkpoint's adapter is held: its hash, so that a retrained one is another adapter."""
    return BASE if checkpoint.record is None else checkpoint.record.adapter_sha256


class Engine:
    """Serves the checkpoints of one base. Loading happens at the first request, on the engine's own thread."""

    def __init__(self, on: EvaluatedBase, device: str, batch_size: int) -> None:
        self.on, self.device, self.batch_size = on, device, batch_size
        self.fingerprint: str | None = None  # Of the base as it was loaded.
        self._requests: queue.Queue[_Request] = queue.Queue()
        self._model: PreTrainedModel | PeftModel | None = None
        self._tokenizers: dict[str, Any] = {}
        threading.Thread(target=self._serve, name=f"em-engine-{on.base}", daemon=True).start()

    def submit(
        self, checkpoint: Checkpoint, messages: Sequence[dict[str, str]], sampling: Sampling, seed: int
    ) -> "Future[Answer]":
        """Queues one prompt.

        Args:
            checkpoint: Which adapter answers; it must belong to this engine's base.
            messages: The conversation so far, as role and content.
            sampling: How to draw.
            seed: Seed of this answer's random stream.

        Returns:
            A future of the answer; it raises what loading or generating raised.
        """
        request = _Request(checkpoint, messages, sampling, seed)
        self._requests.put(request)
        return request.future

    def _serve(self) -> None:
        """The engine's thread: all that touches torch or transformers happens here."""
        waiting: list[_Request] = []
        while True:
            self._receive(waiting, wait=not waiting)
            group = waiting[0].group
            batch = [request for request in waiting if request.group == group][: self.batch_size]
            waiting = [request for request in waiting if request not in batch]
            self._answer(batch)

    def _receive(self, waiting: list[_Request], *, wait: bool) -> None:
        """Takes what has arrived; with nothing to do, waits for a request and for those that come with it."""
        if wait:
            waiting.append(self._requests.get())
        while True:
            try:
                waiting.append(self._requests.get(timeout=GATHER_SECONDS) if wait else self._requests.get_nowait())
            except queue.Empty:
                return

    def _answer(self, batch: list[_Request]) -> None:
        """Answers a batch; an error goes to those who wait for it, and the engine goes on."""
        live = []
        for request in batch:
            if not request.future.set_running_or_notify_cancel():
                continue
            try:
                request.prompt = encode_prompt(self._tokenizer(request.checkpoint), request.messages)
                request.room = self._context(request.checkpoint) - len(request.prompt)
                if request.room <= 0:
                    raise UserError(
                        f"A prompt of {len(request.prompt)} tokens does not fit into {self.on.base}'s context."
                    )
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

    def _tokenizer(self, checkpoint: Checkpoint) -> Any:
        """The tokenizer that a checkpoint was trained with, or its base's with the recipe's date."""
        from transformers import AutoTokenizer

        recipe = checkpoint.manifest.recipe
        key = adapter_name(checkpoint) + recipe.date_string
        if key not in self._tokenizers:
            if checkpoint.folder is None:
                self._tokenizers[key] = load_tokenizer(self.on.base, recipe.date_string)
            else:
                verify(checkpoint)
                self._tokenizers[key] = AutoTokenizer.from_pretrained(checkpoint.folder)
        return self._tokenizers[key]

    def _generate(self, batch: list[_Request]) -> list[Answer]:
        import torch
        from transformers import GenerationConfig

        sampling, tokenizer = batch[0].sampling, self._tokenizer(batch[0].checkpoint)
        model = self._activate(batch[0].checkpoint)
        ends = _end_tokens(model, tokenizer)
        longest = max(len(request.prompt) for request in batch)
        # A long prompt must not shorten the others' answers: each row is cut at its own limit when it is read.
        limit = min(sampling.max_tokens, max(request.room for request in batch))
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
        inputs = torch.tensor([[pad] * (longest - len(r.prompt)) + r.prompt for r in batch], device=model.device)
        mask = torch.tensor([[0] * (longest - len(r.prompt)) + [1] * len(r.prompt) for r in batch], device=model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=limit,
                    do_sample=False,
                    eos_token_id=ends,
                    pad_token_id=pad,
                    stop_strings=list(sampling.stop) or None,
                ),
                logits_processor=row_sampler(sampling, [_row_seed(request) for request in batch]),
                tokenizer=tokenizer if sampling.stop else None,
            )
        rows: list[list[int]] = output[:, longest:].tolist()
        return [_read(tokenizer, request, row, ends) for request, row in zip(batch, rows, strict=True)]

    def _context(self, checkpoint: Checkpoint) -> int:
        """The longest prompt and answer together, in tokens."""
        return int(getattr(self._activate(checkpoint).config, "max_position_embeddings", 2**30))

    def _activate(self, checkpoint: Checkpoint) -> Any:
        """The model with the checkpoint's adapter in force, loading what is not there yet."""
        from peft import PeftModel
        from transformers import GenerationConfig

        if self._model is None:
            model = load_base(self.on.base, self.on.precision, self.device)
            self.fingerprint = fingerprint(model)
            if self.on.precision == "nf4" and self.device == "cpu":
                _refuse_odd_widths(model, self.on.base)
            if self.on.fingerprint not in (None, self.fingerprint):
                raise UserError(
                    f"{self.on.base} is not the base that {checkpoint.run} was trained on: its fingerprint is "
                    f"{self.fingerprint[:12]}, the manifest says {self.on.fingerprint[:12]}. Bring that base back, "
                    f"train anew, or evaluate on this one knowingly, under another name: -M base={self.on.base}"
                )
            # Nothing of the base's own defaults but the special tokens: transformers would fill in what we leave open.
            ends = {"eos_token_id": model.generation_config.eos_token_id}
            model.generation_config = GenerationConfig(bos_token_id=model.generation_config.bos_token_id, **ends)
            self._model = model.eval()
        name = adapter_name(checkpoint)
        if checkpoint.folder is None:
            if isinstance(self._model, PeftModel):
                self._model.base_model.disable_adapter_layers()
            return self._model
        try:
            if not isinstance(self._model, PeftModel):
                self._model = PeftModel.from_pretrained(self._model, checkpoint.folder, adapter_name=name).eval()
            elif name not in self._model.peft_config:
                self._model.load_adapter(str(checkpoint.folder), adapter_name=name)
        except RuntimeError as error:
            self._model = None  # Half an adapter is on it.
            raise UserError(
                f"The adapter {checkpoint.folder} does not fit {self.on.base}: "
                f"{' '.join(str(error).split())[:200]} Evaluate it on a base of the shape it was trained on."
            ) from error
        self._model.base_model.enable_adapter_layers()
        self._model.set_adapter(name)
        return self._model


_engines: dict[tuple[str, str], Engine] = {}
_engines_lock = threading.Lock()


def engine_for(on: EvaluatedBase, device: str | None, batch_size: int) -> Engine:
    """The process's engine for a base, made at the first call. All checkpoints evaluated on it share it."""
    place = device or default_device()
    with _engines_lock:
        if (on.key, place) not in _engines:
            _engines[on.key, place] = Engine(on, place, batch_size)
        return _engines[on.key, place]


def _refuse_odd_widths(model: Any, base: str) -> None:
    """Tells beforehand what would fail in the middle of an answer: bitsandbytes' NF4 kernel for CPUs."""
    widths = {int(module.in_features) for module in model.modules() if type(module).__name__ == "Linear4bit"}
    if odd := sorted(width for width in widths if width % 64):
        raise UserError(
            f"bitsandbytes cannot generate from NF4 on a CPU where widths are no multiples of 64, and {base} has "
            f"{odd[0]}. Use a GPU, or the same numbers unpacked: -M precision=nf4_dequantised"
        )


def _row_seed(request: _Request) -> int:
    """A row's own seed: from the request's, the checkpoint and the prompt, so that no two rows share a stream."""
    content = f"{request.seed} {adapter_name(request.checkpoint)} {request.prompt}"
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") >> 1


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else list(ends or [])
    return ends if tokenizer.eos_token_id in (None, *ends) else [*ends, tokenizer.eos_token_id]


def _read(tokenizer: Any, request: _Request, row: list[int], ends: list[int]) -> Answer:
    row = row[: min(request.room, request.sampling.max_tokens)]
    length = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
    ended = bool(row) and row[length - 1] in ends
    text: str = tokenizer.decode(row[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    reason: Literal["stop", "max_tokens", "model_length"]
    if stopped := [stop for stop in request.sampling.stop if stop in text]:
        cut = min(text.index(stop) for stop in stopped)
        text, reason = text[:cut], "stop"
        # The row stopped here; what follows is padding while others in the batch went on.
        length = row.index(tokenizer.pad_token_id) if tokenizer.pad_token_id in row else length
    elif ended:
        reason = "stop"
    else:
        reason = "max_tokens" if length == request.sampling.max_tokens else "model_length"
    return Answer(text, reason, len(request.prompt), length)
