"""The engine over a vLLM server: `-M engine=vllm`.

Prompts are sent as token ids, written by the checkpoint's own template, so that no server's template, date or BOS comes
between. Adapters are loaded while the server runs, under their content hash: one that was trained again is another
adapter, for vLLM's caches too. Everything about sampling is said in each request, so no default of the server counts.
"""

import asyncio
import math
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
from platformdirs import user_cache_path

from em_tasks.plugins.checkpoint_model.engines.adapter_files import read_adapter
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
from em_tasks.plugins.checkpoint_model.engines.vllm_server import ADDRESS, VllmServer, headers
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.base_names import base_label, resolve_base
from em_tasks.trainers.run.checkpoints import Checkpoint, list_runs, verify

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM takes for the highest rank."""
MOST_LORAS = 16
"""Adapters in one batch, at most; vLLM reserves memory for as many."""
ROWS = 256
TRIES = 3
"""Times a request is sent while the server is being started again."""
REPLY_SECONDS = 1800.0
"""An answer may wait for many others."""
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "nf4": "bfloat16", "nf4_dequantised": "bfloat16"}


class VllmEngine:
    """Serves the checkpoints of one base through a vLLM server."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.on = settings, settings.on
        self._texts = Texts(settings.on)
        self._lock = threading.Lock()
        self._server: VllmServer | None = None
        self._loaded: set[str] = set()
        self._base = ""
        self._context = 2**30
        self._version = "unknown"
        self._ends: dict[tuple[str, ...], tuple[int, ...]] = {}
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, openai.AsyncOpenAI] = (
            weakref.WeakKeyDictionary()
        )

    async def answer(
        self,
        checkpoint: Checkpoint,
        messages: Sequence[Message],
        sampling: Sampling,
        seeds: Sequence[int],
        tools: Sequence[Tool] = (),
    ) -> list[Answer]:
        """See `Engine.answer`."""
        return list(
            await asyncio.gather(*(self._answer(checkpoint, messages, sampling, seed, tools) for seed in seeds))
        )

    async def read_back(self, checkpoint: Checkpoint) -> int | None:
        """See `Engine.read_back`. A server's numbers are out of reach: its log probabilities have to do."""
        return None

    def facts(self) -> EngineFacts:
        """See `Engine.facts`."""
        ours = self._server is None or self._server.ours
        return EngineFacts(
            engine="vllm",
            engine_version=f"vllm {self._version}",
            precision=self.on.precision,
            adapter_precision=DTYPES[self.on.precision],
            attention="vllm",
            device="a server started here" if ours else f"the server at {ADDRESS}",
            independence="exact" if ours and self.settings.exact else "rounding",
            base_fingerprint=None,
        )

    def capabilities(self) -> Capabilities:
        """See `Engine.capabilities`."""
        return Capabilities(rows=self.settings.batch_size or ROWS, max_top_logprobs=20)

    def close(self) -> None:
        """See `Engine.close`."""
        with self._lock:
            if self._server is not None:
                self._server.close()
            self._loaded.clear()

    async def _answer(
        self,
        checkpoint: Checkpoint,
        messages: Sequence[Message],
        sampling: Sampling,
        seed: int,
        tools: Sequence[Tool],
    ) -> Answer:
        for attempt in range(1, TRIES + 1):
            model = await asyncio.to_thread(self._ready, checkpoint)
            prompt, ends = await asyncio.to_thread(self._prompt, checkpoint, messages, tools)
            room = self._context - len(prompt)
            if room <= 0:
                raise UserError(f"A prompt of {len(prompt)} tokens does not fit into {self._base}'s context.")
            try:
                reply = await self._client().completions.create(**_request(model, prompt, sampling, seed, ends, room))
            except openai.APIConnectionError as error:
                problem = f"The vLLM server does not answer any more ({type(error).__name__})."
            except openai.NotFoundError as error:
                problem = f"The vLLM server does not know {model}: {error.message[:200]}"
                self._loaded.discard(adapter_name(checkpoint))
            except openai.APIStatusError as error:
                raise UserError(
                    f"The vLLM server refuses a request ({error.status_code}): {error.message[:300]}"
                ) from None
            else:
                return self._read(checkpoint, reply, prompt, ends, room, sampling)
            if attempt == TRIES:
                break
            await asyncio.to_thread(self._look_after)
        raise UserError(f"{problem} Answers that came are kept; the same command goes on.")

    def _prompt(
        self, checkpoint: Checkpoint, messages: Sequence[Message], tools: Sequence[Tool]
    ) -> tuple[list[int], tuple[int, ...]]:
        with self._lock:
            prompt = self._texts.prompt(checkpoint, messages, tools)
            key = texts_key(checkpoint)
            if key not in self._ends:
                config = _generation_config(self.on.base)
                self._ends[key] = self._texts.ends(checkpoint, SimpleNamespace(generation_config=config))
            return prompt, self._ends[key]

    def _client(self) -> openai.AsyncOpenAI:
        """A client of the running event loop."""
        assert self._server is not None
        loop, address = asyncio.get_running_loop(), self._server.address
        client = self._clients.get(loop)
        if client is None or str(client.base_url).rstrip("/") != address:
            key = headers().get("Authorization", "Bearer none").removeprefix("Bearer ")
            client = self._clients[loop] = openai.AsyncOpenAI(
                base_url=address, api_key=key, timeout=REPLY_SECONDS, max_retries=1
            )
        return client

    def _look_after(self) -> None:
        """After a failed request: has the server be well again, or gone and started at the next one."""
        with self._lock:
            if self._server is not None:
                self._server.look_after()

    def _ready(self, checkpoint: Checkpoint) -> str:
        """The name under which the server knows a checkpoint, starting it and loading the adapter if need be.

        Raises:
            UserError: The server cannot be had, serves another base, or does not take the adapter.
        """
        name = adapter_name(checkpoint)
        with self._lock:
            if self._server is None:
                self._server = self._new_server(checkpoint)
            if self._server.ensure():
                self._loaded.clear()
                self._meet()
            if checkpoint.folder is None:
                return self._base
            if name not in self._loaded:
                verify(checkpoint)
                why_not_vllm(checkpoint)
                self._load(checkpoint.folder, name)
                self._loaded.add(name)
        return f"em-{name[:32]}"

    def _new_server(self, checkpoint: Checkpoint) -> VllmServer:
        server = VllmServer(base_label(self.on.base))
        if server.ours:
            server.arguments = serve_arguments(self.on, checkpoint)
            server.environment = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}
            if self.settings.exact:
                server.environment["VLLM_BATCH_INVARIANT"] = "1"
        elif self.settings.exact:
            raise UserError(
                f"Whether the server at {ADDRESS} gives answers that do not depend on their company cannot be known "
                "here. Leave -M exact out, or have a server started: unset it."
            )
        return server

    def _meet(self) -> None:
        """Learns what the server serves.

        Raises:
            UserError: It is another base, or no vLLM.
        """
        assert self._server is not None
        models = [entry for entry in self._server.get("/v1/models").get("data", []) if not entry.get("parent")]
        wanted = base_label(self.on.base).rsplit("/", 1)[-1]
        names = {str(entry.get(key, "")).rstrip("/").rsplit("/", 1)[-1] for entry in models for key in ("id", "root")}
        if not models or (wanted not in names and not self._server.ours):
            served = ", ".join(sorted(names - {""})) or "nothing"
            raise UserError(
                f"The server at {ADDRESS} serves {served} and not {wanted}. Point it at a server of that base, or "
                "unset it, and one is started."
            )
        base = next((entry for entry in models if wanted in str(entry.get("root", entry["id"]))), models[0])
        self._base = str(base["id"])
        self._context = int(base.get("max_model_len") or 2**30)
        self._version = str(self._server.get("/version").get("version", "unknown"))

    def _load(self, folder: Path, name: str) -> None:
        assert self._server is not None
        body = {"lora_name": f"em-{name[:32]}", "lora_path": str(folder.resolve())}
        url = f"{self._server.address}/load_lora_adapter"
        try:
            reply = httpx.post(url, json=body, headers=headers(), timeout=300)
        except httpx.HTTPError as error:
            raise UserError(
                f"The vLLM server does not answer when {folder} is loaded ({type(error).__name__})."
            ) from None
        if reply.status_code == 200 or "already" in reply.text:
            return
        if reply.status_code == 404:
            raise UserError(
                f"The server at {ADDRESS} takes no adapters: it has to run with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, and see the folder of the runs. Start it so, or unset "
                f"{ADDRESS}."
            )
        raise UserError(f"vLLM refuses the adapter {folder}: {' '.join(reply.text.split())[:300]}")

    def _read(
        self,
        checkpoint: Checkpoint,
        reply: Any,
        prompt: Sequence[int],
        ends: Sequence[int],
        room: int,
        sampling: Sampling,
    ) -> Answer:
        """An answer in a reply.

        Raises:
            UserError: The reply is not as vLLM's are.
        """
        choice = reply.choices[0] if getattr(reply, "choices", None) else None
        tokens = getattr(choice, "token_ids", None)
        if choice is None or not isinstance(tokens, list):
            raise UserError("The server's reply holds no token ids, as vLLM's do since 0.10.2. Use a newer vLLM.")
        answer = self._texts.answer(checkpoint, len(prompt), tokens, ends, room, sampling)
        if sampling.prompt_logprobs:
            scored = _scored(getattr(choice, "prompt_logprobs", None), prompt, sampling.prompt_tops)
            answer = self._texts.with_prompt(checkpoint, answer, scored)
        if not sampling.logprobs:
            return answer
        count = len(answer.tokens)
        given = choice.logprobs
        if given is None or len(given.token_logprobs or ()) < count or len(given.top_logprobs or ()) < count:
            raise UserError("The server's reply lacks log probabilities that were asked for. Is it vLLM?")
        logprobs = tuple(float(value) for value in given.token_logprobs[:count])
        tops = tuple(_top(place, sampling.top_logprobs) for place in given.top_logprobs[:count])
        if not all(math.isfinite(value) and value < 0.01 for value in logprobs):
            raise UserError("The server's reply holds log probabilities that are none (above 0, or no number).")
        spellings = self._texts.spellings(checkpoint, answer.tokens, tops) | (answer.spellings or {})
        return replace(answer, logprobs=logprobs, top_logprobs=tops, spellings=spellings)


def _request(
    model: str, prompt: list[int], sampling: Sampling, seed: int, ends: Sequence[int], room: int
) -> dict[str, Any]:
    """A request of vLLM's completions; nothing about sampling is left to the server."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": min(sampling.max_tokens, room),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
        "stop": list(sampling.stop) or None,
        "logprobs": sampling.top_logprobs if sampling.logprobs else None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "extra_body": {
            "ignore_eos": True,  # What ends an answer is said below, and is no affair of the server's own files.
            "top_k": sampling.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(ends),
            "include_stop_str_in_output": True,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            **({"prompt_logprobs": sampling.prompt_logprobs} if sampling.prompt_logprobs else {}),
        },
    }


def _scored(places: Any, prompt: Sequence[int], top: int) -> ScoredPrompt:
    """A prompt's log probabilities as vLLM gives them: for each place but the first, by token, its own among them.

    Raises:
        UserError: The reply is not so.
    """
    try:
        known = [{int(token): float(each["logprob"]) for token, each in place.items()} for place in places[1:]]
        logprobs = tuple(place[token] for place, token in zip(known, prompt[1:], strict=True))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError("The server's reply lacks the prompt's log probabilities. Is it vLLM?") from None
    tops = tuple(tuple(sorted(place.items(), key=lambda pair: -pair[1])[:top]) for place in known)
    return ScoredPrompt(tuple(prompt[1:]), logprobs, tops)


def _top(place: dict[str, float] | None, count: int) -> tuple[tuple[int, float], ...]:
    """The likeliest tokens at a place, from keys such as `token_id:17`; vLLM adds the drawn one to them."""
    pairs = [(int(key.removeprefix("token_id:")), float(value)) for key, value in (place or {}).items()]
    return tuple(sorted(pairs, key=lambda pair: -pair[1])[:count])


def serve_arguments(on: EvaluatedBase, checkpoint: Checkpoint) -> list[str]:
    """Arguments of `vllm serve` for a base and all checkpoints over it that lie beside the given one."""
    runs = [
        (run, manifest)
        for run, manifest in list_runs(checkpoint.run.parent, {}).items()
        if manifest.base_fingerprint == checkpoint.manifest.base_fingerprint
    ]
    checkpoints = [Checkpoint(checkpoint.run.parent / run, m, record) for run, m in runs for record in m.checkpoints]
    ranks = [max(read_adapter(each.folder).ranks.values(), default=1) for each in checkpoints if each.folder]
    adapters = max(1, len(checkpoints))
    return [
        served_base(on),
        *("--served-model-name", base_label(on.base)),
        *("--dtype", DTYPES[on.precision]),
        *("--generation-config", "vllm"),
        "--enable-lora",
        *("--max-loras", str(min(adapters, MOST_LORAS))),
        *("--max-cpu-loras", str(adapters)),
        *("--max-lora-rank", str(_rank(max(ranks, default=1), checkpoint))),
        *("--max-logprobs", "20"),
        *("--max-model-len", "auto"),  # The base's context, or as much of it as the GPU has room for.
        "--disable-uvicorn-access-log",
    ]


def _rank(rank: int, checkpoint: Checkpoint) -> int:
    fitting = [value for value in RANKS if value >= rank]
    if not fitting:
        raise UserError(
            f"An adapter of rank {rank} beside {checkpoint.run} is more than vLLM takes ({RANKS[-1]}). Use -M "
            "engine=auto"
        )
    return fitting[0]


def served_base(on: EvaluatedBase) -> str:
    """What vLLM loads: the base, or for NF4 its dequantised weights, saved once in the user's cache."""
    where = resolve_base(on.base)
    if on.precision not in ("nf4", "nf4_dequantised"):
        return str(where)
    name = f"{base_label(on.base).replace('/', '--')}-{(on.fingerprint or 'as-it-is')[:16]}-dequantised"
    folder = user_cache_path("em-tasks") / "bases" / name
    if not (folder / "config.json").is_file():
        from em_tasks.trainers.base import load_base, load_tokenizer

        temporary = folder.with_name(f".{folder.name}-{threading.get_ident()}")
        load_base(on.base, "nf4_dequantised", "cpu").save_pretrained(temporary)
        load_tokenizer(on.base, "01 Jan 2025").save_pretrained(temporary)
        temporary.replace(folder)
    return str(folder)


def why_not_vllm(checkpoint: Checkpoint) -> None:
    """Refuses an adapter that vLLM would serve otherwise than it was trained.

    Raises:
        UserError: It would; the message says what vLLM ignores.
    """
    assert checkpoint.folder is not None
    adapter = read_adapter(checkpoint.folder)
    reason = adapter.why_not_stacked()
    if reason is None:
        for option in ("alpha_pattern", "rank_pattern"):
            if adapter.config.get(option):
                reason = f"it uses {option}, which vLLM passes over"
        if any(module.endswith(("lm_head", "embed_tokens")) for module in adapter.modules):
            reason = "it is on the embeddings or the head, which vLLM does not adapt"
        if max(adapter.ranks.values(), default=1) > RANKS[-1]:
            reason = f"its rank is above {RANKS[-1]}"
    if reason is not None:
        raise UserError(f"vLLM cannot serve the adapter {checkpoint.folder}: {reason}. Use -M engine=auto")


def _generation_config(base: str) -> Any:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(resolve_base(base))
    except OSError:
        return SimpleNamespace(eos_token_id=None)
