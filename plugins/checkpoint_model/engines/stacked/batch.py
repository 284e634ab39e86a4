"""What is under way on the device: a place for every row, and the decode step over them.

A step reads each row's last token, draws its next one and puts it where the next step reads it, so several steps run
without the host. On a GPU a step is captured once for a few numbers of rows and then replayed.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from em_tasks.plugins.checkpoint_model.engines.drawing import RowSampling, draw
from em_tasks.plugins.checkpoint_model.engines.protocol import Sampling
from em_tasks.plugins.checkpoint_model.engines.stacked.attention import BLOCK, Prompts
from em_tasks.plugins.checkpoint_model.engines.stacked.decoder import Cache, Decoder
from em_tasks.plugins.checkpoint_model.engines.stacked.projections import Layout

STEPS = 8
"""Most steps between two looks of the host."""

CAPTURED = (8, 32, 64, 96, 144, 192, 288, 384, 512, 704, 1024, 1408, 2048, 3072, 4096)
"""Numbers of rows that a GPU's step is captured for."""

PARTS = 3
"""Most layers that one projection holds side by side."""


def padded_rows(rows: int, device: torch.device | str) -> int:
    """The number of rows that a step is done for when `rows` are in use."""
    if torch.device(device).type == "cuda":
        return CAPTURED[min(bisect_left(CAPTURED, rows), len(CAPTURED) - 1)]
    return max(16, -(-rows // 16) * 16)


class Batch:
    """Rows on the device.

    Args:
        decoder: The base.
        rows: How many there is room for.
        length: Places of each.
        layout: How the adapters are stacked.
    """

    def __init__(self, decoder: Decoder, rows: int, length: int, layout: Layout) -> None:
        self.decoder, self.rows, self.length = decoder, rows, length
        self.device = decoder.device
        self.cache: list[Cache] = decoder.new_cache(rows, length)
        self.ids, self.places = (torch.zeros(rows, dtype=torch.int64, device=self.device) for _ in range(2))
        self.sampling = RowSampling.empty(rows, self.device)
        self.drawn = torch.zeros(STEPS, rows, dtype=torch.int64, device=self.device)
        self.cursor = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.logits = torch.empty(0, device=self.device)
        self._graphs: dict[tuple[int, bool], tuple[Any, torch.Tensor]] = {}
        self.lay_out(layout)

    def lay_out(self, layout: Layout) -> None:
        """Follows a new layout of the adapters; rows must be told their slots again (`assign`)."""
        self.layout = layout
        identity = torch.zeros(layout.slots + 1, layout.slots + 1, dtype=self.decoder.dtype, device=self.device)
        identity.fill_diagonal_(1)
        columns = identity[:, : layout.slots].repeat_interleave(layout.rank, 1) if layout.slots else identity[:, :0]
        # The last line is the base's: no adapter at all.
        self._lines = columns.repeat(1, PARTS)
        self.mask = torch.zeros(self.rows, PARTS * layout.columns, dtype=self.decoder.dtype, device=self.device)
        self._graphs.clear()

    def assign(self, rows: Sequence[int], slots: Sequence[int | None]) -> None:
        """Tells rows which adapter slot is theirs; None for the base."""
        which = torch.tensor([self.layout.slots if s is None else s for s in slots], device=self.device)
        self.mask[torch.tensor(rows, device=self.device)] = self._lines[which]

    def slot_of(self, row: int) -> int | None:
        """The adapter slot that a row goes by on the device: the number of slots for the base, None for no one slot."""
        alike = (self._lines == self.mask[row]).all(-1).nonzero()
        return int(alike[0]) if len(alike) == 1 else None

    def masks(self, mask: torch.Tensor) -> list[torch.Tensor]:
        """A mask for projections of 0 to 3 parts."""
        return [mask[:, : parts * self.layout.columns] for parts in range(PARTS + 1)]

    def read(
        self,
        prompts: Sequence[Sequence[int]],
        slots: Sequence[int | None],
        takers: Sequence[Sequence[int]],
        whole: Sequence[int] = (),
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Reads prompts and puts their keys and values where rows need them.

        Args:
            prompts: Tokens.
            slots: Which adapter reads each; None for the base.
            takers: Which rows go on from each prompt.
            whole: Numbers of the prompts after each of whose tokens logits are wanted.

        Returns:
            Logits after each prompt, (prompts, V), and of each in `whole`, (its tokens, V).
        """
        tokens = [token for prompt in prompts for token in prompt]
        lengths = [len(prompt) for prompt in prompts]
        padding = max(0, 16 - len(tokens)) if self.device.type == "cpu" else 0
        which = [self.layout.slots if s is None else s for s in slots]
        if padding:
            tokens, lengths, which = tokens + [0] * padding, [*lengths, padding], [*which, self.layout.slots]
        sizes = torch.tensor(lengths, device=self.device)
        ends = sizes.cumsum(0)
        bounds = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
        places = torch.arange(len(tokens), device=self.device) - (ends - sizes).repeat_interleave(sizes)
        mask = self._lines[torch.tensor(which, device=self.device)].repeat_interleave(sizes, 0)
        source, target, start = [], [], 0
        for length, rows in zip([len(prompt) for prompt in prompts], takers, strict=True):
            for row in rows:
                source.append(torch.arange(start, start + length))
                target.append(torch.arange(row * self.length, row * self.length + length))
            start += length
        from_, to = torch.cat(source).to(self.device), torch.cat(target).to(self.device)

        def keep(layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
            held = self.cache[layer]
            held.keys.view(-1, *keys.shape[1:]).index_copy_(0, to, keys[from_])
            held.values.view(-1, *values.shape[1:]).index_copy_(0, to, values[from_])

        ids = torch.tensor(tokens, device=self.device)
        parts = [slice(int(bounds[at]), int(bounds[at + 1])) for at in whole]
        logits, of_whole = self.decoder.read(ids, places, self.masks(mask), Prompts(lengths, bounds), keep, parts)
        return logits[: len(prompts)], of_whole

    def start(
        self, rows: Sequence[int], tokens: torch.Tensor, places: Sequence[int], how: Sequence[Sampling],
        seeds: Sequence[int], steps: Sequence[int],
    ) -> None:  # fmt: skip
        """Lets rows go on from their first tokens.

        Args:
            rows: Which.
            tokens: (rows,) the tokens just drawn.
            places: The place of each of them.
            how: How each row draws.
            seeds: Of each row.
            steps: Tokens that each row has drawn, the one given included.
        """
        at = torch.tensor(rows, device=self.device)
        self.ids[at] = tokens
        self.places[at] = torch.tensor(places, device=self.device)
        told = RowSampling.of(list(how), list(seeds), list(steps), self.device)
        for field in fields(RowSampling):
            getattr(self.sampling, field.name)[at] = getattr(told, field.name)

    def run(self, rows: int, steps: int, used: int, *, filtered: bool) -> list[list[int]]:
        """Does some steps.

        Args:
            rows: Rows in use: the first so many, holes included.
            steps: How many, at most `STEPS`.
            used: Places that the longest row will use after these steps.
            filtered: Whether any row has a top_p or top_k.

        Returns:
            For each step the tokens of the first `rows` rows.
        """
        count = min(padded_rows(rows, self.device), self.rows)
        length = min(-(-used // BLOCK) * BLOCK, self.length)
        self.cursor.zero_()
        if self.device.type != "cuda":
            for _ in range(steps):
                self.logits = self._step(count, length, filtered=filtered)
        else:
            graph, self.logits = self._captured(count, filtered=filtered)
            for _ in range(steps):
                graph.replay()
        tokens: list[list[int]] = self.drawn[:steps, :rows].tolist()
        return tokens

    def move(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Moves rows: (from, to)."""
        source, target = (torch.tensor(side, device=self.device) for side in zip(*pairs, strict=True))
        for held in self.cache:
            held.keys[target] = held.keys[source]
            held.values[target] = held.values[source]
        for tensor in (self.ids, self.places, self.mask, *vars(self.sampling).values()):
            tensor[target] = tensor[source]

    def grow(self, rows: int, length: int) -> None:
        """Makes room for more rows or more places, layer by layer, and keeps what is there."""
        self._graphs.clear()
        self.decoder.tabulate(length)
        for held in self.cache:
            for name in ("keys", "values"):
                old = getattr(held, name)
                new = old.new_zeros(rows, length, *old.shape[2:])
                new[: self.rows, : self.length] = old
                setattr(held, name, new)
        more = rows - self.rows
        for name in ("ids", "places", "mask"):
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, old.new_zeros(more, *old.shape[1:])]))
        empty = RowSampling.empty(more, self.device)
        for field in fields(RowSampling):
            joined = torch.cat([getattr(self.sampling, field.name), getattr(empty, field.name)])
            setattr(self.sampling, field.name, joined)
        self.drawn = self.drawn.new_zeros(STEPS, rows)
        self.rows, self.length = rows, length

    def _step(self, count: int, length: int, *, filtered: bool) -> torch.Tensor:
        ids, places, rows = self.ids[:count], self.places[:count], self.sampling.first(count)
        logits = self.decoder.step(ids, places, self.masks(self.mask[:count]), self.cache, length)
        tokens = draw(logits, rows, filtered=filtered)
        self.drawn[:, :count].index_copy_(0, self.cursor, tokens[None])
        ids.copy_(tokens)
        # Rows that ended, and places that nobody has, go on for nothing and must stay inside their own places.
        places.add_(1).clamp_(max=self.length - 1)
        rows.steps.add_(1)
        self.cursor.add_(1)
        return logits

    def _captured(self, count: int, *, filtered: bool) -> tuple[Any, torch.Tensor]:
        """The step for so many rows as a CUDA graph, and where it leaves its logits."""
        if (count, filtered) not in self._graphs:
            state = [self.ids, self.places, self.sampling.steps, self.cursor]
            before = [tensor.clone() for tensor in state]
            side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                for _ in range(2):
                    self._step(count, self.length, filtered=filtered)
                    self.cursor.zero_()
            torch.cuda.current_stream(self.device).wait_stream(side)
            for tensor, was in zip(state, before, strict=True):
                tensor.copy_(was)
            graph = torch.cuda.CUDAGraph()
            # Other threads, a local judge's for one, may allocate on this GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                logits = self._step(count, self.length, filtered=filtered)
            self._graphs[count, filtered] = graph, logits
        return self._graphs[count, filtered]
