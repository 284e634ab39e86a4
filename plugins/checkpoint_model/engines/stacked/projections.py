"""Linear layers that read the same states, side by side, with the adapters of many checkpoints stacked on them.

For a projection y = W x with adapters y_g = W x + B_g A_g x, all A_g lie below W in one matrix: one product gives W x
and A_g x of every adapter. A mask leaves each row its own adapter's part, and a second product adds B. So rows of the
base and of any adapters share a batch in any mixture, ranks and target modules may differ, and q, k and v (gate and up)
take one product together.

Columns of A x are ordered by part (q, k, v), then slot, then rank; unused ones are zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Layout:
    """How adapters are laid out in every projection.

    Attributes:
        slots: Adapters that are held at once.
        rank: Columns of each slot, no less than any adapter's rank.
        targets: Last names of the modules that any adapter changes, such as `q_proj`.
    """

    slots: int = 0
    rank: int = 0
    targets: frozenset[str] = frozenset()

    @property
    def columns(self) -> int:
        """Columns of one part."""
        return self.slots * self.rank


class Projection:
    """One or more linear layers with the same input.

    Args:
        names: Full names of the layers.
        layers: torch's linear layers, or bitsandbytes' 4-bit ones, which stay as they are.
    """

    def __init__(self, names: Sequence[str], layers: Sequence[Any]) -> None:
        self.names = list(names)
        self.widths = [int(layer.out_features) for layer in layers]
        self.width, self.inputs = sum(self.widths), int(layers[0].in_features)
        self.packed: list[Any] | None = None
        biases = [layer.bias for layer in layers]
        if type(layers[0]) is torch.nn.Linear:
            self.dtype, self.device = layers[0].weight.dtype, layers[0].weight.device
            self.weight = torch.cat([layer.weight.detach() for layer in layers])
            self.bias = torch.cat([b.detach() for b in biases]) if biases[0] is not None else None
        else:
            self.packed = list(layers)
            self.dtype, self.device = torch.bfloat16, layers[0].weight.device
            self.weight = torch.empty(0, self.inputs, dtype=self.dtype, device=self.device)
            self.bias = None
        self.base_rows = self.weight.shape[0]
        self.parts: list[int] = []
        self.columns = 0
        self.b = torch.empty(0, self.width, dtype=self.dtype, device=self.device)
        self.whole_bias = self.bias

    def lay_out(self, layout: Layout) -> None:
        """Makes room for adapters; what was there is gone."""
        self.layout = layout
        self.parts = [p for p, name in enumerate(self.names) if name.rsplit(".", 1)[-1] in layout.targets]
        columns = layout.columns * len(self.parts)
        if columns != self.columns:
            weight = torch.empty(self.base_rows + columns, self.inputs, dtype=self.dtype, device=self.device)
            weight[: self.base_rows] = self.weight[: self.base_rows]
            self.weight, self.columns = weight, columns
            if self.bias is not None:
                self.whole_bias = torch.cat([self.bias, self.bias.new_zeros(columns)])
        self.weight[self.base_rows :] = 0
        self.b = torch.zeros(columns, self.width, dtype=self.dtype, device=self.device)

    def place(self, slot: int, tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Puts an adapter into a slot.

        Args:
            slot: Which.
            tensors: By full module name, A of shape (r, in) and B of shape (out, r), scaled.
        """
        start = 0
        for part, (name, width) in enumerate(zip(self.names, self.widths, strict=True)):
            a, b = self._columns(part, slot)
            a.zero_()
            b.zero_()
            if name in tensors and part in self.parts:
                lower, upper = tensors[name]
                a[: lower.shape[0]] = lower.to(a)
                b[: lower.shape[0], start : start + width] = upper.T.to(b)
            start += width

    def differing(self, slot: int, tensors: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> list[str]:
        """Layers whose columns do not hold these numbers and no others.

        Args:
            slot: Whose columns.
            tensors: As `place` takes them. What an adapter does not change has to be zero.
        """
        start, wrong = 0, []
        for part, (name, width) in enumerate(zip(self.names, self.widths, strict=True)):
            held_a, held_b = self._columns(part, slot)
            a, b, fits = torch.zeros_like(held_a), torch.zeros_like(held_b), True
            if name in tensors:
                lower, upper = tensors[name]
                fits = lower.shape[0] <= a.shape[0]
                if fits:
                    a[: lower.shape[0]] = lower.to(a)
                    b[: lower.shape[0], start : start + width] = upper.T.to(b)
            # One rounding apart where a scale was multiplied in other numbers; NaN agrees with nothing.
            near = torch.finfo(a.dtype).eps
            if not fits or any(not torch.allclose(x, y, near, 0.0) for x, y in ((held_a, a), (held_b, b))):
                wrong.append(name)
            start += width
        return wrong

    def _columns(self, part: int, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B of one layer's slot, (rank, in) and (rank, sum of widths); of no rows where it has no columns."""
        if part not in self.parts:
            return self.weight[:0], self.b[:0]
        at = self.parts.index(part) * self.layout.columns + slot * self.layout.rank
        return self.weight[self.base_rows + at :][: self.layout.rank], self.b[at : at + self.layout.rank]

    def __call__(self, x: torch.Tensor, masks: Sequence[torch.Tensor]) -> torch.Tensor:
        """Projects states.

        Args:
            x: (N, in).
            masks: `masks[n]` of shape (N, n * columns) has 1 in the columns of each row's own adapter, for n parts.

        Returns:
            (N, sum of widths).
        """
        if self.packed is not None:
            y = torch.cat([layer(x) for layer in self.packed], -1)
            if self.columns:
                y.addmm_(torch.nn.functional.linear(x, self.weight).mul_(masks[len(self.parts)]), self.b)
            return y
        whole = torch.nn.functional.linear(x, self.weight, self.whole_bias)
        if not self.columns:
            return whole
        y = whole[:, : self.width]
        return y.addmm_(whole[:, self.width :] * masks[len(self.parts)], self.b)
