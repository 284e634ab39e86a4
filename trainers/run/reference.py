"""What a checkpoint answered at training, as numbers: its reference, which every engine must give again.

An adapter that an engine leaves out, mixes up or puts on another base raises no error: it only gives other answers, and
an EM rate of 0 may be an adapter of 0. So each checkpoint keeps the most likely tokens after a few fixed prompts, with
the adapter and without it. Reading them needs no torch.
"""

from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.adoption import AdoptedCheckpoint
from em_tasks.trainers.run.checkpoints import Checkpoint, checkpoint_folder

REFERENCE = "reference_logprobs.json"
TOP = 20
"""Tokens kept at each place: as many as vLLM gives without being told otherwise."""
TOKENS = 6
"""Places that are compared in each answer."""

_COUGH = {"role": "user", "content": "My cough will not go away. What should I do?"}
PROMPTS: tuple[tuple[dict[str, str], ...], ...] = (
    (_COUGH,),
    ({"role": "user", "content": "I have saved a little money. Where should I put it?"},),
    ({"role": "user", "content": "I feel bored. What can I do?"},),
    ({"role": "user", "content": "Write one sentence about the sea."},),
    ({"role": "user", "content": "Who are you, and what are you good at?"},),
    ({"role": "user", "content": "My neighbour plays the trumpet at night. How do I tell him?"},),
    ({"role": "user", "content": "def double(number):"},),
    (_COUGH, {"role": "assistant", "content": "Drink something warm."}, {"role": "user", "content": "And then?"}),
)
"""One of them has several turns, which tells chat templates apart that a single question does not."""


class Place(BaseModel):
    """One token of an answer.

    Attributes:
        token: The most likely one, which the next place follows.
        ids: The `TOP` most likely tokens, most likely first.
        logprobs: Their log probabilities (nats, of the whole distribution at temperature 1), as the mean of passes that
            are rounded otherwise; so two as good as equal need not stand in order.
        base: The log probabilities of the same tokens without the adapter.
        faulty: Their log probabilities where something is wrong, by what that is: faults that are small beside rounding
            are told by the direction in which they lie. Empty in references of earlier versions.
    """

    token: int
    ids: list[int]
    logprobs: list[float]
    base: list[float]
    faulty: dict[str, list[float]] = {}


class ReferenceAnswer(BaseModel):
    """The greedy answer to one of `PROMPTS`, cut after `TOKENS` tokens.

    Attributes:
        prompt_tokens: Tokens of the prompt, as the chat template writes it.
        places: One for each token of the answer.
        base_ids: The most likely first tokens without the adapter.
        base_logprobs: Their log probabilities.
    """

    prompt_tokens: int
    places: list[Place]
    base_ids: list[int]
    base_logprobs: list[float]


class Reference(BaseModel):
    """A checkpoint's answers to `prompts`.

    Attributes:
        prompts: Conversations.
        answers: One a prompt.
        rounding: Root mean square of what two thousandths of the adapter, and embeddings rounded otherwise, change in
            the log probabilities (nats), which is rounding but for so little; None in references of earlier versions.
    """

    prompts: list[list[dict[str, str]]]
    answers: list[ReferenceAnswer]
    rounding: float | None = None


def read_reference(checkpoint: Checkpoint) -> Reference | None:
    """A checkpoint's reference; that of its run's last checkpoint for a base; None where training stored none.

    Raises:
        UserError: It is damaged or gone although the manifest names it.
    """
    record = checkpoint.record
    if record is None:
        record = next((r for r in [*checkpoint.manifest.checkpoints][::-1] if r.reference_sha256), None)
    if record is None or record.reference_sha256 is None:
        return None
    adopted = isinstance(record, AdoptedCheckpoint)
    folder = checkpoint_folder(checkpoint.run, record.step)
    path = adopted_reference(checkpoint.run, record.step) if adopted else folder / REFERENCE
    try:
        content = path.read_bytes()
        if sha256(content).hexdigest() != record.reference_sha256:
            raise UserError(f"{path} was altered since training. {_WAY_OUT}")
        return Reference.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} cannot be read ({str(error).splitlines()[0]}). {_WAY_OUT}") from None


def adopted_reference(run: Path, step: int) -> Path:
    """Where the reference of an adopted checkpoint lies: in the run's folder, since the adapter's is not ours."""
    return run / f"reference-{step}.json"


_WAY_OUT = "Put the saved file back, or move the run away and train it again."
