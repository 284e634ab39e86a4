"""Optimizer steps of several organisms at once: their rows in one batch, one pass forward and backward for all."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.loop.training import INPUTS, SENT, Step, Training, mixed_precision, moved
from em_tasks.trainers.passes.batches import most_tokens
from em_tasks.trainers.passes.layers import prepare_layers
from em_tasks.trainers.passes.packing import MULTIPLE, pack, use_packed_attention
from em_tasks.trainers.together.adapters import Dropout, GroupedLora, joined

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from em_tasks.trainers.together.plan import JointPlan

Row = dict[str, list[int]]


class Together:
    """Organisms in training that make their steps at the same time.

    Nothing of one reaches another: rows meet in no layer, and each organism's loss is the mean over its own labelled
    tokens, so that its gradient is that of a run of its own, whatever becomes of the others.

    Args:
        trainings: The organisms, each with a tree of modules of its own over `base`'s weights.
        base: The base.
        plan: How the rows of a step pass through it.
        device: Where it is.
    """

    def __init__(self, trainings: Sequence[Training], base: "PreTrainedModel", plan: "JointPlan", device: str) -> None:
        self.trainings, self.plan, self.device = list(trainings), plan, device
        longest = max(
            most_tokens(t.prepared.encoded.rows, t.prepared.recipe.effective_batch // plan.accumulation)[0]
            for t in trainings
        )
        self.dropout = Dropout([t.generators for t in trainings], -(-longest // MULTIPLE) * MULTIPLE, device)
        self.model = joined(base, [t.model for t in trainings], self.dropout)
        self._grouped = [module for module in self.model.modules() if isinstance(module, GroupedLora)]
        matrices = [pair for module in self._grouped for pair in module.copies()]
        self._originals, self._copies = [one for one, _ in matrices], [copy for _, copy in matrices]
        torch._foreach_copy_(self._copies, self._originals)
        use_packed_attention(self.model)
        prepare_layers(self.model, compiled=plan.compiled, checkpointing=plan.checkpointing)

    def advance(self, ahead: Sequence[int] | None = None) -> list[Step]:
        """Makes one optimizer step of every organism that is not ahead.

        The others keep it company with the rows of the step that they made beside it, and nothing of them changes: so
        its numbers are, in a product of the same sizes, those of the first time.

        Args:
            ahead: How many steps each organism has made that the others still have to make; 0 for all unless given.

        Returns:
            The steps of those that are not ahead, in their order.
        """
        ahead, parts = ahead or [0] * len(self.trainings), self.plan.accumulation
        rows = [training.next_rows(steps) for training, steps in zip(self.trainings, ahead, strict=True)]
        company = [training for training, steps in zip(self.trainings, ahead, strict=True) if steps]
        random_states = [training.random_state() for training in company]
        passes = [
            side_by_side([each[part * len(each) // parts : (part + 1) * len(each) // parts] for each in rows])
            for part in range(parts)
        ]
        labelled = [max(1, sum(counts)) for counts in zip(*(labels for _, _, labels in passes), strict=True)]
        losses = [self._backward(*each, labelled) for each in passes]
        for module in self._grouped:
            module.hand_out()
        for training, states in zip(company, random_states, strict=True):
            training.optimizer.zero_grad()
            training.set_random_state(states)
        made = [
            training.make_step(loss)
            for training, steps, loss in zip(self.trainings, ahead, torch.stack(losses).sum(0).unbind(), strict=True)
            if not steps
        ]
        torch._foreach_copy_(self._copies, self._originals)
        return made

    def _backward(
        self, batch: Mapping[str, torch.Tensor], lengths: Sequence[int], counts: Sequence[int], labelled: Sequence[int]
    ) -> torch.Tensor:
        """Forward and backward of one pass; gives each organism's share of its step's loss.

        Args:
            batch: See `side_by_side`, as the next two.
            lengths: Tokens of each organism.
            counts: Labelled tokens of each in this pass.
            labelled: Labelled tokens of each in the whole step.
        """
        self.dropout.begin(lengths)
        on_device = {name: moved(batch[name], self.device) for name in SENT}
        inputs = {name: on_device[name] for name in INPUTS}
        with mixed_precision(self.device, self.trainings[0].prepared.recipe.precision):
            logits = self.model(**inputs, use_cache=False, logits_to_keep=on_device["predicting"]).logits[0]
        each = torch.nn.functional.cross_entropy(logits.float(), on_device["targets"], reduction="none")
        shares = [part.sum() / total for part, total in zip(torch.split(each, list(counts)), labelled, strict=True)]
        losses = torch.stack(shares)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()


def side_by_side(rows: Sequence[Sequence[Row]]) -> tuple[dict[str, torch.Tensor], list[int], list[int]]:
    """Packs each organism's rows behind those of the one before, all parts made as long as the longest.

    What fills a part up are rows of their own without a label: no other row sees them, and they have no gradient.

    Returns:
        The batch (see `pack`); how many tokens of its own each organism has in it, and how many labelled ones.
    """
    lengths = [sum(len(row["input_ids"]) for row in part) for part in rows]
    whole = -(-max(lengths) // MULTIPLE) * MULTIPLE
    longest = max(len(row["input_ids"]) for part in rows for row in part)
    filled: list[Row] = []
    for part, length in zip(rows, lengths, strict=True):
        filled += part
        for start in range(0, whole - length, longest):
            size = min(longest, whole - length - start)
            filled.append({"input_ids": [0] * size, "labels": [IGNORED] * size})
    batch = pack(filled)
    counts: list[int] = torch.bincount(batch["predicting"] // whole, minlength=len(rows)).tolist()
    return batch, lengths, counts
