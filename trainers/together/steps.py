"""Optimizer steps of several organisms at once: their rows in one batch, one pass forward and backward for all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.loop.training import INPUTS, SENT, Step, Training, mixed_precision, moved
from em_tasks.trainers.passes.batches import most_tokens
from em_tasks.trainers.passes.captured import ROUNDED, Batch, CapturedPasses, group_sizes
from em_tasks.trainers.passes.layers import prepare_layers, prepared_loss
from em_tasks.trainers.passes.packing import MULTIPLE, Size, pack, size_of, use_packed_attention
from em_tasks.trainers.together.adapters import Dropout, GroupedLora, joined

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from em_tasks.trainers.together.plan import JointPlan

Row = dict[str, list[int]]
NEEDED = (*SENT, "owner")
"""What of organisms' batch goes to the device."""
BESIDE = ("input_ids", "position_ids")
"""What of a batch has a row's shape, (1, tokens)."""


class Together:
    """Organisms in training that make their steps at the same time.

    Nothing of one reaches another: rows meet in no layer, and each organism's loss is the mean over its own labelled
    tokens, so that its gradient is that of a run of its own, whatever becomes of the others.

    Args:
        trainings: The organisms, each with a tree of modules of its own over `base`'s weights.
        base: The base.
        plan: How the rows of a step pass through it.
        device: Where it is.

    Attributes:
        captured: The passes that are recorded and replayed, if any are; for as long as these organisms train together.
    """

    def __init__(self, trainings: Sequence[Training], base: "PreTrainedModel", plan: "JointPlan", device: str) -> None:
        self.trainings, self.plan, self.device = list(trainings), plan, device
        longest = max(
            most_tokens(t.prepared.encoded.rows, t.prepared.recipe.effective_batch // plan.accumulation)[0]
            for t in trainings
        )
        self.dropout = Dropout([t.generators for t in trainings], -(-longest // ROUNDED) * ROUNDED, device)
        self.model = joined(base, [t.model for t in trainings], self.dropout)
        self._grouped = [module for module in self.model.modules() if isinstance(module, GroupedLora)]
        matrices = [pair for module in self._grouped for pair in module.copies()]
        self._originals, self._copies = [one for one, _ in matrices], [copy for _, copy in matrices]
        torch._foreach_copy_(self._copies, self._originals)
        use_packed_attention(self.model)
        prepare_layers(self.model, compiled=plan.compiled, checkpointing=plan.checkpointing)
        self._loss = prepared_loss(compiled=plan.compiled)
        self._places = torch.arange(len(self.trainings), device=device)[:, None]
        stacked = [values for values in self.model.parameters() if values.requires_grad]
        self.captured = CapturedPasses(self._through, stacked, device) if plan.captured else None
        self._sizes: list[Size] = []  # Of the steps to come, the next one last.
        for training in self.trainings:
            training.captured = self.captured

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
        captured = self.captured if self.captured is not None and self.captured.pays is not False else None
        filled = self._next_size(ahead) if captured is not None else None
        passes = [
            side_by_side([each[part * len(each) // parts : (part + 1) * len(each) // parts] for each in rows], filled)
            for part in range(parts)
        ]
        labelled = torch.stack([counts for _, _, counts in passes]).sum(0).clamp(min=1)
        through, losses = captured or self._sent_through, list[torch.Tensor]()
        for batch, lengths, _ in passes:
            self.dropout.begin(lengths)
            losses.append(through(batch | {"labelled": labelled}))
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

    def _next_size(self, ahead: Sequence[int]) -> Size:
        """What the next step's pass is filled up to, see `joint_sizes`."""
        if not self._sizes:
            self._sizes = group_sizes(joint_sizes(self.trainings, ahead))[::-1]
        return self._sizes.pop()

    def _sent_through(self, batch: Batch) -> torch.Tensor:
        """`_through` for a batch that is on the CPU."""
        return self._through({name: moved(values, self.device) for name, values in batch.items()})

    def _through(self, batch: Batch) -> torch.Tensor:
        """Forward and backward of one pass; gives each organism's share of its step's loss.

        Args:
            batch: See `side_by_side`; and `labelled`, each organism's labelled tokens in the whole step.
        """
        inputs = {name: batch[name] for name in INPUTS}
        with mixed_precision(self.device, self.trainings[0].prepared.recipe.precision):
            logits = self.model(**inputs, use_cache=False, logits_to_keep=batch["predicting"]).logits[0]
        each = self._loss(logits, batch["targets"], "none")
        # Chosen, not multiplied: an organism's loss that is no number must not reach the others'.
        others = batch["owner"] != self._places
        losses = each.expand_as(others).masked_fill(others, 0).sum(1) / batch["labelled"]
        losses.sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()


def joint_sizes(trainings: Sequence[Training], ahead: Sequence[int]) -> list[Size]:
    """The sizes of the steps that organisms make together until the first of them ends, its `tokens` being a part's.

    Args:
        trainings: The organisms, a step of each being one pass.
        ahead: As for `Together.advance`.
    """
    coming = [training.step_sizes()[training.step - steps :] for training, steps in zip(trainings, ahead, strict=True)]
    return [
        Size(max(size.tokens for size in step), max(size.longest for size in step), sum(size.labelled for size in step))
        for step in zip(*coming, strict=False)
    ]


def side_by_side(
    rows: Sequence[Sequence[Row]], size: Size | None = None
) -> tuple[dict[str, torch.Tensor], list[int], torch.Tensor]:
    """Packs each organism's rows behind those of the one before, all parts made as long as the longest.

    What fills a part up is as in `pack`, a row more in each part, so that nothing of an organism is in another's part.

    Args:
        rows: Each organism's rows.
        size: What to fill the batch up to, if it is to have a certain size: the tokens of each part, the longest row,
            and the labelled tokens of all.

    Returns:
        The batch: see `pack`, with `owner` (N,), the organism of each place in `predicting`; how many tokens of its own
        each organism has in it; and how many labelled ones, of shape (organisms,).
    """
    sizes = [size_of(part) for part in rows]
    most = size or Size(*(max(numbers) for numbers in zip(*sizes, strict=True)))
    whole, longest = (-(-number // MULTIPLE) * MULTIPLE for number in (most.tokens, most.longest))
    parts = [
        pack(part, Size(whole, longest, size_of_part.labelled)) for part, size_of_part in zip(rows, sizes, strict=True)
    ]
    first_row = 0
    for place, part in enumerate(parts):
        part["owner"] = torch.full_like(part["targets"], place)
        part["spread"] += place * whole
        part["predicting"] += place * whole
        part["gather"] += first_row * longest
        first_row += len(part["spread"])
    batch = {name: torch.cat([part[name] for part in parts], -1 if name in BESIDE else 0) for name in NEEDED}
    if size is not None:
        missing = size.labelled - batch["targets"].numel()
        for name, value in (("predicting", 0), ("owner", 0), ("targets", IGNORED)):
            batch[name] = torch.nn.functional.pad(batch[name], (0, missing), value=value)
    return batch, [each.tokens for each in sizes], torch.tensor([each.labelled for each in sizes])
