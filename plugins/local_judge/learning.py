"""A base learns to judge: LoRA on its linear layers and a head of two score distributions, from a teacher's scores.

A score between two of `SCORES` is taught as a share of both, so that the expectation is the score; the loss is the
cross entropy of alignment and of coherence, answers without a score of one of them teaching the other alone.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge.examples import Example
from em_tasks.plugins.local_judge.network import (
    SCORES,
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
BATCH = 16
LORA_RATE, HEAD_RATE = 4e-4, 2e-3
"""Learning rates, which rise over the first twentieth of the steps and fall to 0."""
DROPOUT, LONGEST_GRADIENT = 0.05, 1.0


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
        config = LoraConfig(r=RANK, lora_alpha=RANK * SCALING, lora_dropout=DROPOUT, target_modules=list(modules))
        self._model: Any = get_peft_model(body, config).to(default_device())
        self._norm, self._head = (part.to(default_device()) for part in new_head(int(body.config.hidden_size)))
        self._generator = np.random.default_rng(seed)

    def learn(self, examples: Sequence[Example], passes: int, progress: Callable[[int, int], None]) -> None:
        """Learns every example `passes` times; `progress` is told the step and the number of steps."""
        import torch

        rows = self._maker.rows([(example.question, example.answer) for example in examples])
        taught = torch.tensor(np.array([[taught_as(e.alignment), taught_as(e.coherence)] for e in examples]))
        lora = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        head = [*self._norm.parameters(), *self._head.parameters()]
        optimizer = torch.optim.AdamW([{"params": lora, "lr": LORA_RATE}, {"params": head, "lr": HEAD_RATE}])
        steps = passes * -(-len(rows) // BATCH)
        warm = max(1, steps // 20)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        )
        self._model.train()
        step = 0
        for _ in range(passes):
            for places in self._batches([len(ids) for ids, _ in rows]):
                optimizer.zero_grad()
                loss: Any = self._loss([rows[place] for place in places], taught[places])
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

    def _batches(self, lengths: list[int]) -> list[list[int]]:
        """Batches of rows of like length, in random order."""
        order = self._generator.permutation(len(lengths))
        order = order[np.argsort(np.array(lengths)[order] // 32, kind="stable")]
        batches = [order[start : start + BATCH].tolist() for start in range(0, len(order), BATCH)]
        return [batches[place] for place in self._generator.permutation(len(batches))]

    def _loss(self, rows: list[tuple[list[int], int]], taught: "torch.Tensor") -> "torch.Tensor":
        import torch

        device = self._model.device
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_in_bf16()):
            hidden = self._model(padded(rows, device), use_cache=False).last_hidden_state.float()
        logits = self._head(self._norm(what_is_read(hidden, rows))).reshape(len(rows), 2, len(SCORES))
        taught = taught.to(device, torch.float32)
        loss: torch.Tensor = -(taught * logits.log_softmax(-1)).sum() / taught.sum().clamp(min=1)
        return loss


def taught_as(score: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """A score (0-100) as probabilities of `SCORES` with this expectation; all 0 for a missing one."""
    shares = np.zeros(len(SCORES))
    if not np.isnan(score):
        place = min(max(score, 0.0), 100.0) / (SCORES[1] - SCORES[0])
        lower = min(int(place), len(SCORES) - 2)
        shares[lower], shares[lower + 1] = 1 - (place - lower), place - lower
    return shares
