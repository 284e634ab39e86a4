"""Asks an engine for a checkpoint's reference before its first answer; no answer counts that follows a fault."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio

from em_tasks.plugins.checkpoint_model.adapter_check import AdapterCheck, compare
from em_tasks.plugins.checkpoint_model.engines.protocol import Answer, Engine, Sampling
from em_tasks.plugins.checkpoint_model.engines.texts import BASE, adapter_name
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.checkpoints import Checkpoint
from em_tasks.trainers.run.reference import TOKENS, TOP, Reference, read_reference

GREEDY = Sampling(max_tokens=TOKENS, temperature=0.0, logprobs=True, top_logprobs=TOP)


class CheckedAdapter:
    """One model's check: made before its first answer, and once.

    Args:
        checkpoint: The model's.
        on: The base that it is evaluated on.
    """

    def __init__(self, checkpoint: Checkpoint, on: EvaluatedBase) -> None:
        self.checkpoint, self.on = checkpoint, on
        self._result: dict[str, Any] | None = None
        self._lock: anyio.Lock | None = None

    async def result(self, engine: Engine) -> dict[str, Any]:
        """The check, as metadata of every answer.

        Raises:
            UserError: The engine does not answer as the checkpoint did at training, or holds other numbers than its
                adapter's file.
            UserError: The checkpoint's reference was altered or is gone.
        """
        self._lock = self._lock or anyio.Lock()
        async with self._lock:
            if self._result is None:
                check = await self._check(engine)
                if check.status == "failed":
                    raise UserError(
                        f"The engine {engine.facts().engine} does not answer as em/{_name(self.checkpoint)} did at "
                        f"training: {check.reason}. No answer of it counts. Is the base the one that was trained on, "
                        "and the checkpoint's tokenizer as it was saved? Another engine shows which side is at fault: "
                        "-M engine=transformers"
                    )
                if self.checkpoint.folder is not None:
                    check = replace(check, read_back=await engine.read_back(self.checkpoint))
                self._result = check.metadata()
            return self._result

    async def _check(self, engine: Engine) -> AdapterCheck:
        if self.on.fingerprint is None:
            return AdapterCheck("not checked", "another base or precision than at training was asked for")
        if self.checkpoint.whole_model is not None:
            return AdapterCheck("not checked", "a whole model, whose fingerprint was checked when it was loaded")
        reference = read_reference(self.checkpoint)
        if reference is None:
            return AdapterCheck("not checked", "its training stored no reference")
        if engine.capabilities().max_top_logprobs < TOP:
            return AdapterCheck("not checked", "this engine gives too few log probabilities")
        answers: list[Any] = [None] * len(reference.prompts)

        async def ask(n: int) -> None:
            (answers[n],) = await engine.answer(self.checkpoint, reference.prompts[n], GREEDY, [0])

        try:
            async with anyio.create_task_group() as group:
                for n in range(len(answers)):
                    group.start_soon(ask, n)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        if (reason := written_by_another(self.checkpoint, answers)) is not None:
            return AdapterCheck("failed", reason)
        return compare(reference, answers, self.on.precision, self._others(), base=self.checkpoint.record is None)

    def _others(self) -> dict[str, Reference]:
        """The references of the run's other checkpoints; one that cannot be read is not asked about."""
        references = {}
        for record in self.checkpoint.manifest.checkpoints:
            other = Checkpoint(self.checkpoint.run, self.checkpoint.manifest, record)
            if record != self.checkpoint.record:
                try:
                    reference = read_reference(other)
                except UserError:
                    continue
                if reference is not None:
                    references[_name(other)] = reference
        return references


def written_by_another(checkpoint: Checkpoint, answers: Sequence[Answer]) -> str | None:
    """What is wrong where an engine that can tell says that another adapter wrote the answers; else None."""
    wrong = {answer.adapter for answer in answers} - {None, adapter_name(checkpoint)}
    if not wrong:
        return None
    return f"its answers were written by {'no adapter' if wrong == {BASE} else 'the numbers of another adapter'}"


def _name(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.run.name}@{checkpoint.record.step if checkpoint.record else 'base'}"
