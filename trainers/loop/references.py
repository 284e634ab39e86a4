"""A checkpoint's reference: what the model that is being trained answers to a few fixed prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from em_tasks.trainers.data.chat import encode_prompt
from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.passes.packing import ATTENTION, pack
from em_tasks.trainers.run.reference import PROMPTS, TOKENS, TOP, Place, Reference, ReferenceAnswer

if TYPE_CHECKING:
    from peft import PeftModel

DIGITS = 5
WEAKER = 0.8
"""Of the adapter's strength: near enough that what another strength makes of the numbers is nearly a line."""
SHAKEN = (0.999, 1.001)
"""Of the adapter's strength: what changes by so little is what rounding makes, if the embeddings are rounded otherwise,
too; a young adapter is so small that rounding itself would be the same with any strength of it."""


def reference_of(model: "PeftModel", tokenizer: Any) -> bytes:
    """The reference of the adapter that is on `model`, as the file that lies beside it.

    Costs `TOKENS` + 5 forward passes over some 200 tokens, and one for each kind of module that the adapter changes.
    The model is left as it was, and so are the states of random number generators.
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
    whole = [row[:-1] for row in rows]
    faulty = dict(_faulty(model, whole))
    shaken = [list[list[torch.Tensor]](), list[list[torch.Tensor]]()]
    for seed, (passes, factor) in enumerate(zip(shaken, SHAKEN, strict=True)):
        with _scaled([weight for _, weight in _upper_halves(model)], factor), _rounded_otherwise(model, seed):
            passes += [list(logprobs) for logprobs in _logprobs(model, whole, [TOKENS] * len(rows))]
    answers, squares = [], list[float]()
    for number, (prompt, row, with_adapter, without) in enumerate(zip(prompts, rows, adapted, bare, strict=True)):
        first = without[0].topk(min(TOP, without.shape[-1]))
        down, up = (passes[number] for passes in shaken)
        for logprobs, less, more in zip(with_adapter, down, up, strict=True):
            top = logprobs.topk(min(TOP, logprobs.shape[-1])).indices
            squares += (less - more)[top].double().square().tolist()
        answers.append(
            ReferenceAnswer(
                prompt_tokens=len(prompt),
                places=[
                    _place(
                        token,
                        [with_adapter[place], down[place], up[place]],
                        without[place],
                        {what: logprobs[number][place] for what, logprobs in faulty.items()},
                    )
                    for place, token in enumerate(row[len(prompt) :])
                ],
                base_ids=first.indices.tolist(),
                base_logprobs=_rounded(first.values),
            )
        )
    rounding = round((sum(squares) / len(squares)) ** 0.5, DIGITS)
    return Reference(prompts=[list(messages) for messages in PROMPTS], answers=answers, rounding=rounding)


def _faulty(model: "PeftModel", rows: Sequence[list[int]]) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """What is wrong, and the log probabilities (places, vocabulary) of each row then."""
    last = [TOKENS] * len(rows)
    halves = _upper_halves(model)
    with _scaled([weight for _, weight in halves], WEAKER):
        yield "its adapter were weaker", _logprobs(model, rows, last)
    for module in sorted({module for module, _ in halves}):
        with _scaled([weight for name, weight in halves if name == module], 0.0):
            yield f"{module} had no adapter", _logprobs(model, rows, last)
    yield "each prompt's first token stood twice", _logprobs(model, [[row[0], *row] for row in rows], last)


def _upper_halves(model: "PeftModel") -> list[tuple[str, torch.Tensor]]:
    """The adapter's B of every module, with the last part of the module's name."""
    return [
        (name.split(".lora_B.")[0].rsplit(".", 1)[-1], weight)
        for name, weight in model.named_parameters()
        if any(name.endswith(f".lora_B.{adapter}.weight") for adapter in model.active_adapters)
    ]


@contextmanager
def _scaled(weights: Sequence[torch.Tensor], factor: float) -> Iterator[None]:
    """Has weights multiplied while the block runs, and puts them back bit for bit."""
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.mul_(factor)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


@contextmanager
def _rounded_otherwise(model: "PeftModel", seed: int) -> Iterator[None]:
    """Has the embeddings moved by up to half a rounding while the block runs, which every later rounding follows."""
    chance = torch.Generator().manual_seed(seed)

    def move(module: Any, inputs: Any, embedded: torch.Tensor) -> torch.Tensor:
        moves = (torch.rand(embedded.shape, generator=chance) - 0.5) * torch.finfo(embedded.dtype).eps
        return (embedded * (1 + moves.to(embedded.device))).to(embedded.dtype)

    hook = model.get_input_embeddings().register_forward_hook(move)
    try:
        yield
    finally:
        hook.remove()


def _place(token: int, adapted: Sequence[torch.Tensor], base: torch.Tensor, faulty: dict[str, torch.Tensor]) -> Place:
    top = adapted[0].topk(min(TOP, adapted[0].shape[-1])).indices
    return Place(
        token=token,
        ids=top.tolist(),
        # The mean is rounded less than any of them.
        logprobs=_rounded(torch.stack([logprobs[top] for logprobs in adapted]).mean(0)),
        base=_rounded(base[top]),
        faulty={what: _rounded(logprobs[top]) for what, logprobs in faulty.items()},
    )


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
