"""The `em/` model API: `em/<organism>@<step>` and `em/<organism>@base` as ordinary Inspect models.

Models of one base share one engine, so any number of checkpoints needs one base in memory. Nothing is looked for before
the first answer is asked for: a finished log can be scored again where the weights are not.
"""

import hashlib
import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    GenerateConfig,
    Logprob,
    Logprobs,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from em_tasks.plugins.checkpoint_model.checking import CheckedAdapter
from em_tasks.plugins.checkpoint_model.engines.choosing import engine_for, parse_engine
from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.sharing import EngineLease
from em_tasks.plugins.checkpoint_model.journal import AnswerJournal, answer_key
from em_tasks.plugins.checkpoint_model.subject import runs_folder, served_on
from em_tasks.plugins.checkpoint_model.tool_calls import as_functions, as_turns, message_of, refuse_what_is_lacking
from em_tasks.plugins.errors import UserError, shown_plainly
from em_tasks.trainers.run.base_names import base_label
from em_tasks.trainers.run.checkpoints import Checkpoint, find_checkpoint, verify

DEFAULT_MAX_TOKENS = 600
DEFAULT_CONNECTIONS = 512


class CheckpointModel(ModelAPI):
    """One checkpoint, or the base under it.

    Model args:
        runs: Folder of training runs; `EM_RUNS`, else `runs`.
        pin: How the hash of the adapter, or of the base, must begin, so that a log cannot name another model.
        base: Another base than the checkpoint was trained on: a toy model, a folder or a hub id.
        precision: Another precision than it was trained at.
        device: A torch device; the first GPU, else the CPU.
        batch_size: Most answers generated at once; what the memory holds, unless given.
        engine: `auto`, `stacked`, `transformers` or `vllm`.
        exact: Answers must not depend on what shares their batch, at a cost (see docs/performance.md).
        identity: What else a sweep tells this evaluation apart by; it stands in the log and changes nothing.

    Attributes:
        journal: Where seeded answers are kept and found again; none unless a sweep sets one.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = GenerateConfig(),  # noqa: B008 - Inspect's own signature
        runs: str | None = None,
        pin: str | None = None,
        base: str | None = None,
        precision: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        engine: str = "auto",
        exact: bool = False,
        identity: str | None = None,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        self.journal: AnswerJournal | None = None
        # Resolved now: Inspect changes the working directory between making a model and using it.
        self.runs = runs_folder(runs)
        self.pin, self.base, self.precision, self.identity = pin, base, precision, identity
        self.device, self.batch_size, self.exact = device, batch_size, exact
        self.engine = parse_engine(engine)
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; at least one answer is generated at once.")
        self._lease: EngineLease | None = None
        set_model_info(f"em/{model_name}", ModelInfo(organization="em-tasks", model=model_name))

    @cached_property
    def described(self) -> Checkpoint:
        """What the name stands for, checked as far as its files are there.

        A log can be gone on with or scored again where the weights are not; the first answer asks for them.

        Raises:
            UserError: No run has it, or its files were altered.
        """
        with shown_plainly():
            checkpoint = find_checkpoint(self.runs, self.model_name)
        folder = checkpoint.whole_model or checkpoint.folder
        return checkpoint if folder is not None and not folder.exists() else self.checkpoint

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """What the name stands for, checked against its manifest when it is first asked for.

        Raises:
            UserError: No run has it, its files were altered since they were saved, or its hash is not the `pin`.
        """
        with shown_plainly():
            checkpoint = find_checkpoint(self.runs, self.model_name)
            verify(checkpoint)
        record = checkpoint.record
        sha256 = record.adapter_sha256 if record else checkpoint.manifest.base_fingerprint
        if self.pin is not None and not sha256.startswith(self.pin):
            raise UserError(
                f"em/{self.model_name} was asked for with hash {self.pin}, but {checkpoint.run} holds {sha256[:12]}: "
                "it was trained again since. Evaluate it anew without that hash."
            )
        return checkpoint

    @cached_property
    def checked(self) -> CheckedAdapter:
        """The check that the engine answers as this checkpoint did at training."""
        return CheckedAdapter(self.checkpoint, self.lease.settings.on)

    @property
    def lease(self) -> EngineLease:
        """This model's hold on its base's engine."""
        if self._lease is None:
            with shown_plainly():
                on = served_on(self.checkpoint, self.base, self.precision)
            engine, alone = engine_for(self.engine, self.checkpoint), self.checkpoint.whole_model is not None
            self._lease = EngineLease(EngineSettings(on, engine, self.device, self.batch_size, self.exact, alone=alone))
        return self._lease

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answers one conversation; `num_choices` draws several answers to it."""
        refuse_what_is_lacking(input, tool_choice, config)
        offered = [] if tool_choice == "none" else tools
        async with self.lease.turn():
            return await self._answered(as_turns(input), offered, config)

    async def _answered(
        self, messages: list[dict[str, Any]], tools: list[ToolInfo], config: GenerateConfig
    ) -> ModelOutput:
        engine, functions = self.lease.engine(), as_functions(tools)
        sampling = parse_sampling(config, engine.capabilities().max_top_logprobs)
        seed = secrets.randbits(63) if config.seed is None else config.seed
        content: list[Any] = [self.checkpoint.record.adapter_sha256 if self.checkpoint.record else "base", messages]
        content += [functions] if functions else []
        seeds = [answer_seed(seed, content, choice) for choice in range(config.num_choices or 1)]
        journal = None if config.seed is None else self.journal
        key = answer_key([self.lease.settings, self.identity, content, sampling, seeds])
        if journal is not None and (kept := journal.get(key)) is not None:
            return kept
        check = await self.checked.result(engine)
        answers = await engine.answer(self.checkpoint, messages, sampling, seeds, functions)
        written, read = sum(len(answer.tokens) for answer in answers), answers[0].input_tokens
        family = base_label(self.checkpoint.manifest.recipe.base)
        replies = [message_of(answer.text, tools, self.model_name, family) for answer in answers]
        output = ModelOutput(
            model=f"em/{self.model_name}",
            choices=[
                ChatCompletionChoice(
                    message=message,
                    stop_reason="tool_calls" if message.tool_calls else answer.stop_reason,
                    logprobs=shown_logprobs(answer),
                    prompt_logprobs=shown_prompt_logprobs(answer),
                )
                for answer, message in zip(answers, replies, strict=True)
            ],
            usage=ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written),
            metadata={**engine.facts().metadata(), "adapter_check": check},
        )
        if journal is not None:
            journal.keep(key, output)
        return output

    def close(self) -> None:
        """Gives the engine up; with its last model the base is freed."""
        if self._lease is not None:
            self._lease.close()

    def max_tokens(self) -> int | None:
        """Answers are cut after this many tokens unless the task says otherwise."""
        return DEFAULT_MAX_TOKENS

    def max_connections(self) -> int:
        """Twice the batch, so that whoever finishes is followed at once."""
        return 2 * self.batch_size if self.batch_size else DEFAULT_CONNECTIONS

    def connection_key(self) -> str:
        """Checkpoints of one base share one engine and so one pool of connections."""
        try:
            return self.lease.settings.on.key
        except UserError:
            return self.model_name  # It is complained about at the first answer.

    def collapse_user_messages(self) -> bool:
        """Chat templates want turns to alternate."""
        return True


def parse_sampling(config: GenerateConfig, max_top_logprobs: int) -> Sampling:
    """How an answer is drawn: nothing but what was asked for, and the whole distribution where nothing was.

    Raises:
        UserError: A value is out of its range, or more likely tokens are asked for than the engine gives.
    """
    sampling = Sampling(
        max_tokens=DEFAULT_MAX_TOKENS if config.max_tokens is None else config.max_tokens,
        temperature=1.0 if config.temperature is None else config.temperature,
        top_p=1.0 if config.top_p is None else config.top_p,
        top_k=max(config.top_k or 0, 0),
        stop=tuple(string for string in config.stop_seqs or () if string),
        logprobs=bool(config.logprobs),
        top_logprobs=(config.top_logprobs or 0) if config.logprobs else 0,
        prompt_logprobs=config.prompt_logprobs or 0,
    )
    if sampling.max_tokens < 1 or sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
        raise UserError(
            f"max_tokens {sampling.max_tokens}, temperature {sampling.temperature}, top_p {sampling.top_p}: give at "
            "least 1 token, a temperature of at least 0, and a top_p above 0 and up to 1."
        )
    if sampling.top_logprobs > max_top_logprobs:
        raise UserError(f"top_logprobs {sampling.top_logprobs} is more than this engine's {max_top_logprobs}.")
    return sampling


def answer_seed(seed: int, content: object, choice: int) -> int:
    """An answer's own seed in [0, 2**63), so that no two checkpoints, prompts or choices share their noise."""
    digest = hashlib.sha256(f"{seed} {choice} {content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shown_logprobs(answer: Answer) -> Logprobs | None:
    """An answer's log probabilities as Inspect has them; None where none were asked for."""
    if not answer.logprobs or answer.spellings is None:
        return None
    return _logprobs(answer.tokens, answer.logprobs, answer.top_logprobs, answer.spellings)


def shown_prompt_logprobs(answer: Answer) -> Logprobs | None:
    """Those of the prompt's tokens but the first; None where none were asked for."""
    if answer.prompt is None or answer.spellings is None:
        return None
    prompt = answer.prompt
    return _logprobs(prompt.tokens, prompt.logprobs, prompt.top_logprobs, answer.spellings)


def _logprobs(
    tokens: Sequence[int],
    logprobs: Sequence[float],
    top_logprobs: Sequence[Sequence[tuple[int, float]]],
    spelled: dict[int, str],
) -> Logprobs:
    tops = top_logprobs or ((),) * len(tokens)
    return Logprobs(
        content=[
            Logprob(
                token=spelled[token],
                logprob=logprob,
                bytes=list(spelled[token].encode()),
                top_logprobs=[TopLogprob(token=spelled[t], logprob=v) for t, v in top] or None,
            )
            for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
        ]
    )
