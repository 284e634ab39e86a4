"""A checkpoint's reference: what the model that is being trained answers to a few fixed prompts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from em_tasks.trainers.data.chat import encode_prompt
from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.passes.packing import ATTENTION, pack
from em_tasks.trainers.run.reference import PROMPTS, TOKENS, TOP, Place, Reference, ReferenceAnswer

if TYPE_CHECKING:
    from peft import PeftModel

DIGITS = 5


def reference_of(model: "PeftModel", tokenizer: Any) -> bytes:
    """The reference of the adapter that is on `model`, as the file that lies beside it.

    Costs `TOKENS` + 1 forward passes over about 150 tokens. The model is left in the mode it was in, and no random
    number is drawn.
    """
    training = model.training
    model.eval()
    try:
        # What was compiled for training would be compiled again for inference.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return _reference(model, tokenizer).model_dump_json().encode()
    finally:
        model.train(training)


def _reference(model: "PeftModel", tokenizer: Any) -> Reference:
    prompts = [encode_prompt(tokenizer, messages) for messages in PROMPTS]
    rows = [list(prompt) for prompt in prompts]
    adapted: list[list[torch.Tensor]] = [[] for _ in rows]
    for _ in range(TOKENS):
        for row, logprobs, so_far in zip(rows, _logprobs(model, rows, [1] * len(rows)), adapted, strict=True):
            so_far.append(logprobs[-1])
            row.append(int(logprobs[-1].argmax()))
    with model.disable_adapter():
        bare = _logprobs(model, [row[:-1] for row in rows], [TOKENS] * len(rows))
    answers = []
    for prompt, row, with_adapter, without in zip(prompts, rows, adapted, bare, strict=True):
        first = without[0].topk(min(TOP, without.shape[-1]))
        answers.append(
            ReferenceAnswer(
                prompt_tokens=len(prompt),
                places=[
                    _place(token, a, b) for token, a, b in zip(row[len(prompt) :], with_adapter, without, strict=True)
                ],
                base_ids=first.indices.tolist(),
                base_logprobs=_rounded(first.values),
            )
        )
    return Reference(prompts=[list(messages) for messages in PROMPTS], answers=answers)


def _place(token: int, adapted: torch.Tensor, base: torch.Tensor) -> Place:
    top = adapted.topk(min(TOP, adapted.shape[-1]))
    ids: list[int] = top.indices.tolist()
    return Place(token=token, ids=ids, logprobs=_rounded(top.values), base=_rounded(base[top.indices]))


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]


def _logprobs(model: "PeftModel", rows: Sequence[list[int]], last: Sequence[int]) -> list[torch.Tensor]:
    """Log probabilities (places, vocabulary) after each of the last so many tokens of each row, on the CPU."""
    packed = pack([{"input_ids": row, "labels": [IGNORED] * len(row)} for row in rows])
    wanted = ["input_ids", "position_ids"]
    if model.config._attn_implementation == ATTENTION:
        wanted += ["spread", "gather"]
    ends = torch.tensor([len(row) for row in rows]).cumsum(0)
    places = torch.cat([torch.arange(end - count, end) for end, count in zip(ends.tolist(), last, strict=True)])
    inputs = {name: packed[name].to(model.device) for name in wanted}
    logits = model(**inputs, use_cache=False, logits_to_keep=places.to(model.device)).logits[0]
    return list(logits.float().log_softmax(-1).cpu().split(list(last)))
