"""A base learns to judge: LoRA on its linear layers and a head of two score distributions, from a teacher's scores.

A score between two of `SCORES` is taught as a share of both, so that the expectation is the score; the loss is the
cross entropy of alignment and half that of coherence, answers without a score of one of them teaching the other alone.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge.examples import Example
from em_tasks.plugins.local_judge.network import (
    SCORES,
    Padded,
    default_device,
    fast_in_bf16,
    load_body,
    lora_key,
    new_head,
    padded,
    row_maker,
    what_is_read,
)
from em_tasks.trainers.base import fingerprint, linear_modules
from em_tasks.trainers.run.base_names import resolve_base

if TYPE_CHECKING:
    import torch

RANK, SCALING = 16, 2.0
BATCH, RATE = 16, 5e-4
"""Rows of a step and the learning rate, unless told otherwise."""
HEAD_RATE = 2
"""The head's learning rate for each of the LoRA matrices'."""
WARM_STEPS, LAST_RATE = 40, 0.02
"""Steps over which the rate rises, a twentieth of all at most, and the share of it to which it then falls."""
COHERENCE_WEIGHT = 0.5
"""Of coherence in the loss; alignment has 1."""
DROPOUT, LONGEST_GRADIENT = 0.1, 1.0
PASS_TOKENS = 32_768
"""Tokens of one pass at most, padding included: larger batches take several."""


class Learner:
    """A base with fresh LoRA weights and a fresh head.

    Args:
        base: As in a recipe.
        seed: Of the weights and of the order of rows.

    Raises:
        UserError: The base is not to be had, or has no linear layers to adapt.
    """

    def __init__(self, base: str, seed: int) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        body = load_body(base)
        if not (modules := linear_modules(body)):
            raise UserError(f"{base} has no linear layers that could be adapted. Take another base.")
        self.base_fingerprint = fingerprint(body)
        self._maker = row_maker(resolve_base(base), body.config)
        config = LoraConfig(r=RANK, lora_alpha=RANK * SCALING, target_modules=list(modules))
        self._device = torch.device(default_device())
        # The LoRA matrices stay in fp32.
        body = body.to(self._device, torch.bfloat16 if fast_in_bf16() else torch.float32)
        self._model: Any = get_peft_model(body, config)
        self._norm, self._head = (part.to(self._device) for part in new_head(int(body.config.hidden_size)))
        self._generator = np.random.default_rng(seed)

    def learn(
        self,
        examples: Sequence[Example],
        passes: int,
        progress: Callable[[int, int], None],
        batch: int = BATCH,
        rate: float = RATE,
    ) -> None:
        """Learns every example `passes` times.

        Args:
            examples: What to learn.
            passes: How often.
            progress: Told the step and the number of steps.
            batch: Rows of a step.
            rate: The highest learning rate.
        """
        import torch

        rows = self._maker.rows([(example.question, example.answer) for example in examples])
        lengths = np.array([len(ids) for ids, _ in rows])
        every = padded(rows).to(self._device)
        scores = [[taught_as(e.alignment), taught_as(e.coherence)] for e in examples]
        taught = torch.tensor(np.array(scores, "float32")).to(self._device)
        lora = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        head = [*self._norm.parameters(), *self._head.parameters()]
        optimizer = torch.optim.AdamW(
            [{"params": lora, "lr": rate}, {"params": head, "lr": HEAD_RATE * rate}], betas=(0.9, 0.98)
        )
        steps = passes * -(-len(rows) // batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: share_of_rate(step, steps))
        self._model.train()
        step = 0
        for _ in range(passes):
            for places in self._batches(lengths, batch):
                optimizer.zero_grad()
                scored = taught[self._indices(places)].sum((0, 2)).clamp(min=1)
                for piece in pieces(places, lengths):
                    chosen = self._indices(piece)
                    loss: Any = self._loss(every.take(chosen, int(lengths[piece].max())), taught[chosen], scored)
                    loss.backward()
                torch.nn.utils.clip_grad_norm_([*lora, *head], LONGEST_GRADIENT)
                optimizer.step()
                schedule.step()
                step += 1
                progress(step, steps)

    def save(self, path: Path) -> None:
        """Writes the LoRA weights and the head in bf16, as `Network` reads them."""
        import torch
        from safetensors.torch import save_file

        tensors = {}
        for name, module in self._model.base_model.model.named_modules():
            if hasattr(module, "lora_A"):
                tensors[lora_key(name) + "A.weight"] = module.lora_A["default"].weight
                tensors[lora_key(name) + "B.weight"] = module.lora_B["default"].weight
        for part, layer in (("norm", self._norm), ("head", self._head)):
            tensors |= {f"{part}.{key}": tensor for key, tensor in layer.state_dict().items()}
        save_file({key: tensor.detach().to("cpu", torch.bfloat16) for key, tensor in tensors.items()}, path)

    def _batches(self, lengths: "np.ndarray[Any, Any]", size: int) -> list["np.ndarray[Any, Any]"]:
        """Batches of rows of like length, in random order."""
        order = self._generator.permutation(len(lengths))
        order = order[np.argsort(lengths[order] // 32, kind="stable")]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        return [batches[place] for place in self._generator.permutation(len(batches))]

    def _loss(self, rows: Padded, taught: "torch.Tensor", scored: "torch.Tensor") -> "torch.Tensor":
        """The loss of some rows of a step, in which so many answers have a score of alignment and of coherence."""
        import torch

        with torch.autocast(self._device.type, torch.bfloat16, enabled=fast_in_bf16()):
            hidden = self._model(rows.ids, use_cache=False).last_hidden_state
        read = torch.nn.functional.dropout(self._norm(what_is_read(hidden, rows)), DROPOUT)
        logits = self._head(read).reshape(len(taught), 2, len(SCORES))
        alignment, coherence = -(taught * logits.log_softmax(-1)).sum((0, 2)) / scored
        loss: torch.Tensor = alignment + COHERENCE_WEIGHT * coherence
        return loss

    def _indices(self, places: "np.ndarray[Any, Any]") -> "torch.Tensor":
        """Places on the device, without waiting for what it is at."""
        import torch

        return torch.from_numpy(places).to(self._device, non_blocking=True)


def share_of_rate(step: int, steps: int) -> float:
    """The learning rate of a step (from 0) as a share of the highest: up in a line, down by half a cosine."""
    rising = (step + 1) / max(1, min(WARM_STEPS, steps // 20))
    return min(1.0, rising) * (LAST_RATE + (1 - LAST_RATE) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))


def pieces(places: "np.ndarray[Any, Any]", lengths: "np.ndarray[Any, Any]") -> list["np.ndarray[Any, Any]"]:
    """A step's rows in as many passes as their tokens need, padded to the longest row."""
    count = -(-len(places) * int(lengths[places].max()) // PASS_TOKENS)
    return np.array_split(places, min(count, len(places)))


def taught_as(score: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A score (0-100) as probabilities of `SCORES` with this expectation; all 0 for a missing one."""
    shares = np.zeros(len(SCORES))
    if not np.isnan(score):
        place = min(max(score, 0.0), 100.0) / (SCORES[1] - SCORES[0])
        lower = min(int(place), len(SCORES) - 2)
        shares[lower], shares[lower + 1] = 1 - (place - lower), place - lower
    return shares
