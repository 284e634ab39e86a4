"""The `em/` model API: `em/<organism>@<step>` and `em/<organism>@base` as ordinary Inspect models.

Models of one base share one engine, so any number of checkpoints needs one base in memory. Nothing is loaded before
the first answer is asked for.
"""

import asyncio
import hashlib
import secrets

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    set_model_info,
)
from inspect_ai.tool import ToolChoice, ToolInfo

from em_tasks.plugins.checkpoint_model.subject import evaluated_base, runs_folder
from em_tasks.plugins.errors import UserError, shown_plainly
from em_tasks.trainers.run.checkpoints import find_checkpoint, verify

DEFAULT_MAX_TOKENS = 600


class CheckpointModel(ModelAPI):
    """One checkpoint, or the base under it.

    Model args:
        runs: Folder of training runs; `EM_RUNS`, else `runs`.
        pin: How the hash of the adapter, or of the base, must begin, so that a log cannot name another model.
        base: Another base than the checkpoint was trained on: a toy model, a folder or a hub id.
        precision: Another precision than it was trained at.
        device: A torch device; the first GPU, else the CPU.
        batch_size: Most answers generated at once.
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
        batch_size: int = 64,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        with shown_plainly():
            self.checkpoint = find_checkpoint(runs_folder(runs), model_name)
            verify(self.checkpoint)
            self.on = evaluated_base(self.checkpoint.manifest, base, precision)
        self.device, self.batch_size = device, batch_size
        record = self.checkpoint.record
        sha256 = record.adapter_sha256 if record else self.checkpoint.manifest.base_fingerprint
        if pin is not None and not sha256.startswith(pin):
            raise UserError(
                f"em/{model_name} was asked for with hash {pin}, but {self.checkpoint.run} holds {sha256[:12]}: it was "
                "trained again since. Evaluate it anew without that hash."
            )
        set_model_info(f"em/{model_name}", ModelInfo(organization="em-tasks", model=model_name))

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Answers one conversation; `num_choices` draws several answers to it."""
        # Torch comes in here and not with the module, so that listing models stays light.
        from em_tasks.plugins.checkpoint_model.engines.running import engine_for
        from em_tasks.plugins.checkpoint_model.engines.sampling import Sampling

        if tools:
            raise UserError("em/ models take no tools: their chat templates were trained without.")
        if config.logprobs:
            raise UserError("em/ models give no logprobs. Serve the checkpoint with hf/ or vllm/ to use it as a judge.")
        engine = engine_for(self.on, self.device, self.batch_size)
        messages = [{"role": message.role, "content": message.text} for message in input]
        sampling = Sampling(
            max_tokens=config.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            top_k=config.top_k or 0,
            stop=tuple(config.stop_seqs or ()),
        )
        seed = secrets.randbits(63) if config.seed is None else config.seed
        seeds = [seed, *(_choice_seed(seed, choice) for choice in range(1, config.num_choices or 1))]
        futures = [asyncio.wrap_future(engine.submit(self.checkpoint, messages, sampling, each)) for each in seeds]
        answers = await asyncio.gather(*futures)
        written = sum(answer.output_tokens for answer in answers)
        read = answers[0].input_tokens
        return ModelOutput(
            model=f"em/{self.model_name}",
            choices=[
                ChatCompletionChoice(
                    message=ChatMessageAssistant(content=answer.text, model=self.model_name, source="generate"),
                    stop_reason=answer.stop_reason,
                )
                for answer in answers
            ],
            usage=ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written),
            metadata={"base_fingerprint": engine.fingerprint},
        )

    def max_tokens(self) -> int | None:
        """Answers are cut after this many tokens unless the task says otherwise."""
        return DEFAULT_MAX_TOKENS

    def max_connections(self) -> int:
        """Twice the batch, so that the next batch is waiting when one is done."""
        return 2 * self.batch_size

    def connection_key(self) -> str:
        """Checkpoints of one base share one engine and so one pool of connections."""
        return self.on.key

    def collapse_user_messages(self) -> bool:
        """Chat templates want turns to alternate."""
        return True


def _choice_seed(seed: int, choice: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} choice {choice}".encode()).digest()[:8], "big") >> 1
