"""Which adapters are held, and in which slots."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from em_tasks.plugins.checkpoint_model.engines.adapter_files import PREFIX, WEIGHTS, AdapterFiles, read_adapter
from em_tasks.plugins.checkpoint_model.engines.stacked.decoder import Decoder
from em_tasks.plugins.checkpoint_model.engines.stacked.projections import Layout
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.hashes import adapter_sha256

if TYPE_CHECKING:
    import torch

MOST_COLUMNS = 512
"""Most columns of one part: with more, the adapters' products cost as much as the base's."""

SLOTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64)
LEAST_RANK = 8
EXACT_SLOTS = 8
EXACT_LEAST_RANK = 16
ALL_TARGETS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})


@dataclass(frozen=True)
class Shape:
    """What an adapter needs of a layout: columns, a power of two, and the last names of its modules."""

    rank: int
    targets: frozenset[str]


class NotHeldError(UserError):
    """A slot does not hold what its adapter's file has; `adapter` is its name."""

    def __init__(self, adapter: str, message: str) -> None:
        super().__init__(message)
        self.adapter = adapter


class Stack:
    """The adapters on a decoder.

    Args:
        decoder: The base.
        linears: Outputs and inputs of the base's linear layers by full name.
        base: Its name, for messages.
    """

    def __init__(self, decoder: Decoder, linears: dict[str, tuple[int, int]], base: str) -> None:
        self.decoder, self.linears, self.base = decoder, linears, base
        self.layout = Layout()
        self.slots: dict[str, int] = {}
        self._files: dict[str, AdapterFiles] = {}
        self._shapes: dict[str, Shape] = {}

    def inspect(self, adapter: str, folder: Path) -> Shape:
        """Looks at an adapter's files before any of its rows is taken.

        Args:
            adapter: The name it will be held under.
            folder: Where it lies.

        Raises:
            UserError: It is damaged, does not fit the base, or is more than LoRA on linear layers.
        """
        if adapter not in self._shapes:
            files = read_adapter(folder)
            if reason := files.why_not_stacked():
                raise UserError(
                    f"The stacked engine cannot serve {folder}: {reason}. Evaluate it with -M engine=transformers."
                )
            files.check(self.linears, self.base)
            rank = max(LEAST_RANK, 1 << (max(files.ranks.values(), default=1) - 1).bit_length())
            self._files[adapter] = files
            self._shapes[adapter] = Shape(rank, frozenset(m.rsplit(".", 1)[-1] for m in files.modules))
        return self._shapes[adapter]

    def rank(self, adapter: str) -> int:
        """Columns that an adapter takes."""
        return self._shapes[adapter].rank

    def choose(self, wanted: Sequence[str], *, exact: bool) -> list[str]:
        """The first of the adapters wanted that can be held together; those held already come first."""
        most = EXACT_SLOTS if exact else SLOTS[-1]
        chosen: list[str] = []
        rank = LEAST_RANK
        for adapter in sorted(dict.fromkeys(wanted), key=lambda adapter: adapter not in self.slots):
            widest = max(rank, self._shapes[adapter].rank)
            if not chosen or ((len(chosen) + 1) * widest <= MOST_COLUMNS and len(chosen) < most):
                chosen.append(adapter)
                rank = widest
        return chosen

    def hold(self, adapters: Sequence[str], *, exact: bool) -> bool:
        """Holds these adapters; others go where their slot is needed.

        Args:
            adapters: From `choose`.
            exact: Whether the layout may depend on nothing but one adapter's own rank.

        Returns:
            Whether the layout changed, so that slots have moved.

        Raises:
            NotHeldError: A slot does not hold afterwards what its adapter's file has. The slots may have moved.
        """
        missing = [adapter for adapter in adapters if adapter not in self.slots]
        if not missing and not (exact and self.layout != self.exact_layout(adapters)):
            return False
        layout = self.exact_layout(adapters) if exact else self._layout_for(adapters)
        changed = layout != self.layout
        if changed:
            self.layout, self.slots = layout, {}
            self.decoder.lay_out(layout)
            missing = list(adapters)
        for adapter in [held for held in self.slots if held not in adapters]:
            if len(self.slots) + len(missing) <= layout.slots:
                break
            del self.slots[adapter]
        free = (slot for slot in range(layout.slots) if slot not in set(self.slots.values()))
        for adapter, slot in list(zip(missing, free, strict=False)):
            self.decoder.place(slot, self._tensors(self._files[adapter]))
            self.slots[adapter] = slot
            try:
                self.compare(adapter)
            except BaseException as error:
                del self.slots[adapter]  # Memory that runs out while it is compared must not let it pass either.
                if isinstance(error, UserError):
                    raise NotHeldError(adapter, error.message) from error
                raise
        return changed

    def compare(self, adapter: str) -> int | None:
        """Compares what an adapter's slot holds with the adapter's file.

        Returns:
            How many modules the file has, all of which agree; None where the adapter is in no slot.

        Raises:
            UserError: The slot holds something else, or the file is not the one that the adapter's name was made of.
        """
        from safetensors.torch import load_file

        if adapter not in self.slots:
            return None
        files = self._files[adapter]
        if (actual := adapter_sha256(files.folder)) != adapter:
            raise UserError(
                f"{files.folder} was altered while it was in use: its adapter has hash {actual[:12]}, and "
                f"{adapter[:12]} was asked for. Give the same command again."
            )
        # Not as `_tensors` reads it, whose faults would agree with themselves.
        state = load_file(files.folder / WEIGHTS, device=str(self.decoder.device))
        tensors = {}
        for module in {key.removeprefix(PREFIX).split(".lora_")[0] for key in state}:
            a, b = (state[f"{PREFIX}{module}.lora_{half}.weight"].float() for half in ("A", "B"))
            tensors[module] = a, b * files.scaling(module, b.shape[1])
        slot = self.slots[adapter]
        projections = [projection for layer in self.decoder.layers for projection in layer.projections]
        wrong = sorted(set(tensors) - {name for projection in projections for name in projection.names})
        wrong += [name for projection in projections for name in projection.differing(slot, tensors)]
        if wrong:
            raise UserError(
                f"The stacked engine does not hold {files.folder} as its file has it: {len(wrong)} modules differ, "
                f"first {', '.join(wrong[:3])}. No answer of it counts. Evaluate it with -M engine=transformers."
            )
        return len(tensors)

    def exact_layout(self, adapters: Sequence[str]) -> Layout:
        """A layout that depends on the rank alone, for adapters of one rank."""
        rank = max([EXACT_LEAST_RANK, *(self._shapes[adapter].rank for adapter in adapters)])
        return Layout(EXACT_SLOTS, rank, ALL_TARGETS)

    def _layout_for(self, adapters: Sequence[str]) -> Layout:
        shapes = [self._shapes[adapter] for adapter in adapters]
        rank, targets = max(shape.rank for shape in shapes), frozenset().union(*(shape.targets for shape in shapes))
        now = self.layout
        if len(adapters) <= now.slots and rank <= now.rank and targets <= now.targets:
            return now
        slots = next(slots for slots in SLOTS if slots >= max(len(adapters), 1))
        return Layout(slots, rank, targets)

    def _tensors(self, files: AdapterFiles) -> dict[str, "tuple[torch.Tensor, torch.Tensor]"]:
        """A and scaled B of every module."""
        from safetensors.torch import load_file

        state = load_file(files.folder / WEIGHTS, device=str(self.decoder.device))
        pairs = {}
        for module in files.modules:
            a, b = (state[f"{PREFIX}{module}.lora_{half}.weight"].float() for half in ("A", "B"))
            pairs[module] = a, b * files.scaling(module, a.shape[0])
        return pairs
