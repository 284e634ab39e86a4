"""An organism in training: model, optimizer, random numbers and how far it is, and one optimizer step after another.

All that a run's next step depends on is in `Training` and in its `state`, so that a run that goes on from a state is
the run that was never interrupted, and so that several organisms can be in training in one process.
"""

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.order import rows_of_epoch
from em_tasks.trainers.data.tokens import IGNORED
from em_tasks.trainers.loop.processes import added_up, process_count, process_rank
from em_tasks.trainers.passes.captured import CapturedPasses, group_sizes
from em_tasks.trainers.passes.layers import prepare_layers, prepared_loss
from em_tasks.trainers.passes.packing import Size, pack, size_of, use_packed_attention
from em_tasks.trainers.run.folder import STATE
from em_tasks.trainers.run.manifest import PassSeconds
from em_tasks.trainers.run.schedule import learning_rate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftModel

    from em_tasks.trainers.data.prepare import Prepared
    from em_tasks.trainers.passes.batches import BatchPlan

HISTORY = "history.json"
INPUTS = ("input_ids", "position_ids", "spread", "gather")
SENT = (*INPUTS, "predicting", "targets")
"""What of a packed batch goes to the device."""


@dataclass(frozen=True)
class Step:
    """One optimizer step as it was made; its tensors are on the device, and reading them waits for it.

    Attributes:
        number: Counted from 1.
        loss: This process's share of the mean loss over the step's labelled tokens, in nats; the shares add up to it.
        gradient_norm: Length of the gradient before it was clipped.
        learning_rate: The rate that the step was made with.
    """

    number: int
    loss: torch.Tensor
    gradient_norm: torch.Tensor
    learning_rate: float


class Training:
    """An organism in training.

    Args:
        prepared: The recipe with its rows and schedule.
        model: The base with the adapter to train.
        batches: How a step's rows pass through the model.
        device: Where the model is.
        generators: Where its random numbers come from, seeded here: `cpu`, and on a GPU `device`; those of the process
            unless given.

    Attributes:
        step: Optimizer steps made.
        captured: The passes that are recorded and replayed, if any are; with others' rows where it trains with others.
        history: What was logged so far: `step`, `loss` (mean since the entry before), `grad_norm`, `learning_rate`.
    """

    def __init__(
        self,
        prepared: "Prepared",
        model: "PeftModel",
        batches: "BatchPlan",
        device: str,
        generators: "Mapping[str, torch.Generator] | None" = None,
    ) -> None:
        self.prepared, self.model, self.batches, self.device = prepared, model, batches, device
        self.generators = generators or _of_the_process(device)
        recipe = prepared.recipe
        model.train()
        use_packed_attention(model.get_base_model())
        prepare_layers(model.get_base_model(), compiled=batches.compiled, checkpointing=batches.checkpointing)
        self._loss = prepared_loss(compiled=batches.compiled)
        self._sizes = group_sizes(self.step_sizes()) if batches.captured else None
        self.trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(
            list(self.trained.values()),
            lr=recipe.learning_rate,
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._order: tuple[int, list[int]] = (-1, [])
        self.captured = CapturedPasses(self._through, list(self.trained.values()), device) if batches.captured else None
        # Each process drops other numbers.
        self._seed(recipe.seed * 1_000_003 + process_rank())

    def advance(self) -> Step:
        """Makes one optimizer step."""
        size = self.batches.rows
        rows = self.next_rows()
        captured = self.captured if self.captured is not None and self.captured.pays is not False else None
        filled = self._sizes[self.step] if self._sizes is not None and captured is not None else None
        passes = [pack(rows[start : start + size], filled) for start in range(0, len(rows), size)]
        labelled = added_up(torch.tensor(sum(int((batch["targets"] != IGNORED).sum()) for batch in passes)))
        counted = {"labelled": labelled.clamp(min=1)}
        through = captured or self._sent_through
        losses = [through({name: batch[name] for name in SENT} | counted) for batch in passes]
        return self.make_step(torch.stack(losses).sum())

    @property
    def replayed(self) -> int:
        """Passes here that were replayed from a recording."""
        return self.captured.replayed if self.captured is not None else 0

    @property
    def pass_seconds(self) -> PassSeconds | None:
        """What launched and replayed passes took here, once both were tried."""
        if self.captured is None or self.captured.seconds is None:
            return None
        launched, replayed = self.captured.seconds
        return PassSeconds(launched=launched, replayed=replayed)

    def make_step(self, loss: torch.Tensor) -> Step:
        """Clips the gradient that is there and makes the optimizer step; `loss` is this process's share of it."""
        recipe, trained = self.prepared.recipe, list(self.trained.values())
        if process_count() > 1:
            _add_up_gradients(trained)
        norm = torch.nn.utils.clip_grad_norm_(trained, recipe.max_grad_norm)
        rate = learning_rate(recipe, self.prepared.schedule.total_steps, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return Step(self.step, loss, norm, rate)

    def next_rows(self, ahead: int = 0) -> list[dict[str, list[int]]]:
        """This process's share of the next step's rows, or of a step that was made: so many before the next."""
        encoded, schedule = self.prepared.encoded.rows, self.prepared.schedule
        recipe = self.prepared.recipe
        epoch, within = divmod(self.step - ahead, schedule.steps_per_epoch)
        if self._order[0] != epoch:
            drawn = schedule.steps_per_epoch * recipe.effective_batch
            self._order = epoch, rows_of_epoch(recipe.seed, epoch, len(encoded), drawn)
        share = recipe.effective_batch // process_count()
        start = within * recipe.effective_batch + process_rank() * share
        return [encoded[row] for row in self._order[1][start : start + share]]

    def step_sizes(self) -> list[Size]:
        """The sizes of all steps of the run, in passes of `batches.rows` rows."""
        encoded, schedule, batch = self.prepared.encoded.rows, self.prepared.schedule, self.batches.rows
        each, drawn, sizes = [size_of([row]) for row in encoded], schedule.steps_per_epoch * batch, list[Size]()
        for epoch in range(-(-schedule.total_steps // schedule.steps_per_epoch)):
            order = rows_of_epoch(self.prepared.recipe.seed, epoch, len(encoded), drawn)
            for start in range(0, drawn, batch):
                tokens, longest, labelled = zip(*(each[row] for row in order[start : start + batch]), strict=True)
                sizes.append(Size(sum(tokens), max(longest), sum(labelled)))
        return sizes[: schedule.total_steps]

    def _sent_through(self, batch: "Mapping[str, torch.Tensor]") -> torch.Tensor:
        """`_through` for a batch that is on the CPU."""
        return self._through({name: moved(values, self.device) for name, values in batch.items()})

    def _through(self, batch: "Mapping[str, torch.Tensor]") -> torch.Tensor:
        """Forward and backward of one pass; the head is computed where a labelled token is predicted, and nowhere else.

        Args:
            batch: See `pack`; and `labelled`, the number of labelled tokens of the whole step, in all passes and
                processes.
        """
        with mixed_precision(self.device, self.prepared.recipe.precision):
            inputs = {name: batch[name] for name in INPUTS}
            logits = self.model(**inputs, use_cache=False, logits_to_keep=batch["predicting"]).logits[0]
        loss = self._loss(logits, batch["targets"], "sum") / batch["labelled"]
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def random_state(self) -> dict[str, torch.Tensor]:
        """This process's random numbers to come."""
        return {name: generator.get_state() for name, generator in self.generators.items()}

    def set_random_state(self, states: "Mapping[str, torch.Tensor]") -> None:
        """Brings back what `random_state` gave."""
        for name in self.generators.keys() & states.keys():
            self.generators[name].set_state(states[name])

    def _seed(self, seed: int) -> None:
        for generator in self.generators.values():
            generator.manual_seed(seed)

    def write_state(self, folder: Path, random_states: list[dict[str, torch.Tensor]]) -> None:
        """Writes all that the next step depends on.

        Args:
            folder: Where to; it is made.
            random_states: Those of all processes, in order.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            "step": self.step,
            "adapter": {name: value.detach() for name, value in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "random": random_states,
        }
        with (folder / STATE).open("wb") as file:
            torch.save(state, file)
        (folder / HISTORY).write_text(json.dumps(self.history), encoding="utf-8")

    def read_state(self, folder: Path) -> None:
        """Goes on from where `write_state` was called.

        Raises:
            UserError: The state is damaged.
        """
        try:
            state: dict[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
            self.history = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            raise UserError(
                f"The resume state {folder} is damaged ({str(error).splitlines()[0][:200]}). The run's checkpoints "
                "stand. Put the saved files back, or move the run away and train it anew."
            ) from None
        self.step = state["step"]
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state["adapter"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if len(state["random"]) != process_count():
            # Begun by another number of processes: their random numbers cannot go on, others begin.
            self._seed((self.prepared.recipe.seed * 1_000_003 + process_rank()) * 1_000_003 + self.step)
            return
        self.set_random_state(state["random"][process_rank()])


def mixed_precision(device: str, precision: str) -> AbstractContextManager[object]:
    """The arithmetic of a pass: bf16 products on a GPU, unless the base is held in fp32."""
    return torch.autocast("cuda", torch.bfloat16) if device != "cpu" and precision != "fp32" else nullcontext()


def moved(values: torch.Tensor, device: str) -> torch.Tensor:
    """A tensor made on the CPU, on the device, without waiting for it."""
    return values if device == "cpu" else values.pin_memory().to(device, non_blocking=True)


def _of_the_process(device: str) -> "Mapping[str, torch.Generator]":
    """The generators that everything in this process draws from unless it names another."""
    generators = {"cpu": torch.default_generator}
    if device != "cpu":
        generators["device"] = torch.cuda.default_generators[torch.device(device).index or 0]
    return generators


def _add_up_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Gives every process the sum of all processes' gradients, in one message."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    added_up(flat)
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()
