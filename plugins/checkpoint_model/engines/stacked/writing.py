"""Who writes next: rows wait, are read, write, and leave.

Everything here is plain bookkeeping on the host around `Batch` and `Stack`. When memory runs out, the rows under way
are put aside with what they have written, half as many are let in, and they go on: noise is hashed from seed and step,
so an answer that was put aside draws as it would have.
"""

from collections.abc import Sequence
from itertools import islice

import torch

from em_tasks.plugins.checkpoint_model.engines.drawing import (
    RowSampling,
    draw,
    is_filtered,
    scored_prompt,
    token_logprobs,
)
from em_tasks.plugins.checkpoint_model.engines.stacked.attention import BLOCK
from em_tasks.plugins.checkpoint_model.engines.stacked.batch import STEPS, Batch, padded_rows
from em_tasks.plugins.checkpoint_model.engines.stacked.decoder import Decoder
from em_tasks.plugins.checkpoint_model.engines.stacked.rows import Row
from em_tasks.plugins.checkpoint_model.engines.stacked.stack import EXACT_LEAST_RANK, NotHeldError, Stack
from em_tasks.plugins.checkpoint_model.engines.texts import BASE, Texts
from em_tasks.plugins.errors import UserError

CPU_ROWS = 256
GPU_ROWS = 4096
EXACT_ROWS = 64
SHARE = 0.85
"""Of the free memory that rows may take."""

GROWTH = 1.25
"""A batch that will not hold all who wait grows by as much at least: its steps are captured anew, which takes long."""

READ_TOKENS = 8192
"""Tokens of prompts read together, unless one prompt alone is longer."""


class Writing:
    """The rows of one base, waiting and under way.

    Args:
        decoder: The base.
        stack: Its adapters.
        texts: Its tokenizers.
        batch_size: Most rows at once; None for what the memory holds.
        exact: Whether an answer must not depend on its company.
    """

    def __init__(self, decoder: Decoder, stack: Stack, texts: Texts, batch_size: int | None, *, exact: bool) -> None:
        self.decoder, self.stack, self.texts, self.exact = decoder, stack, texts, exact
        self.context = decoder.context
        self.most = batch_size or (EXACT_ROWS if exact else GPU_ROWS if decoder.device.type == "cuda" else CPU_ROWS)
        self.steps = STEPS if decoder.device.type == "cuda" else 1
        self.waiting: dict[tuple[str | None, tuple[int, ...]], list[Row]] = {}
        self.placed: list[Row | None] = []
        self.batch: Batch | None = None
        self._failure: BaseException | None = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.waiting and not self._active()

    def add(self, row: Row) -> None:
        """Lets a row wait; rows of one prompt wait together and are read once.

        Raises:
            UserError: The device has failed. On an H200 what was written after that looked like answers and was none.
        """
        if self._failure is not None:
            raise UserError(
                f"{self.decoder.device} failed ({_short(self._failure)}), and what it would write now cannot be "
                "trusted. Give the same command again; what was answered before stands."
            )
        self.waiting.setdefault((row.adapter, row.read), []).append(row)

    def advance(self) -> None:
        """Lets in who can be let in, and all under way write a little."""
        try:
            with torch.inference_mode():
                self._let_in()
                if self._active():
                    self._write()
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._retreat(error)
        except NotHeldError as error:
            self._put_aside()
            self._refuse(error)
        except BaseException as error:
            if _is_cpu_out_of_memory(error):
                self._retreat(error)
            else:
                self.abandon(error)
            if isinstance(error, torch.AcceleratorError):
                self._failure = error

    def abandon(self, error: BaseException) -> None:
        """Ends every row with an error."""
        rows = [*self._active(), *(row for rows in self.waiting.values() for row in rows)]
        self.waiting, self.placed, self.batch = {}, [], None
        for row in rows:
            row.future.set_exception(error)

    def _active(self) -> list[Row]:
        return [row for row in self.placed if row is not None]

    def _retreat(self, error: BaseException) -> None:
        """Out of memory: half the rows at once, those under way going on later where they were."""
        held = len(self._active()) or (self.most if self.batch is None else min(self.batch.rows, self.most))
        if held <= 1 or self.exact:
            hint = "Give a smaller -M batch_size." if self.exact else "Ask for fewer tokens, or use a larger GPU."
            self.abandon(UserError(f"Memory ran out with {held} answers at once ({_short(error)}). {hint}"))
            return
        self.most = max(1, held // 2)
        self._put_aside()
        if self.decoder.device.type == "cuda":
            torch.cuda.empty_cache()

    def _put_aside(self) -> None:
        """Has the rows under way wait, before all others, and frees their batch."""
        rows, later = self._active(), self.waiting
        self.batch, self.placed, self.waiting = None, [], {}
        for row in rows:
            self.add(row)
        for key, others in later.items():
            self.waiting.setdefault(key, []).extend(others)

    def _refuse(self, error: NotHeldError) -> None:
        """Ends the rows of an adapter that is not held as its file has it; those of others go on."""
        for key in [key for key in self.waiting if key[0] == error.adapter]:
            for row in self.waiting.pop(key):
                row.future.set_exception(error)

    def _let_in(self) -> None:
        """Reads the prompts of those who fit in, and draws their first tokens."""
        if not self.waiting:
            return
        if self.exact and self._active() and self._kind(next(iter(self.waiting.values()))[0]) != self._kind_now:
            return  # The oldest waits for another kind of batch; others of this kind must not keep it waiting.
        chosen = self._chosen()
        if not chosen:
            return
        self._hold(chosen)
        rows = [row for group in chosen for row in group]
        self._make_room(rows)
        if self.batch is None:
            return
        room = self.batch.rows if self.batch.rows < self.most else self.most
        free = (place for place in range(room) if place >= len(self.placed) or self.placed[place] is None)
        taken = dict(zip(rows, free, strict=False))
        for part in self._readings([[row for row in group if row in taken] for group in chosen]):
            self._read(part, taken)

    def _chosen(self) -> list[list[Row]]:
        """Waiting rows that may come in now, first come first, in groups of one prompt."""
        first = next(iter(self.waiting.values()))[0]
        kind = self._kind(first)
        alike = [rows for rows in self.waiting.values() if not self.exact or self._kind(rows[0]) == kind]
        active = self._active()
        wanted = [row.adapter for row in active] + [rows[0].adapter for rows in alike]
        held = set(self.stack.choose([name for name in wanted if name is not None], exact=self.exact))
        room = self.most - len(active)
        chosen: list[list[Row]] = []
        for rows in alike:
            if room <= 0:
                break
            if rows[0].adapter is None or rows[0].adapter in held:
                chosen.append(rows[:room])
                room -= len(chosen[-1])
        self._kind_now = kind
        return chosen

    def _kind(self, row: Row) -> tuple[int, int]:
        """What decides the sizes of exact batches: the adapter's rank, and places in powers of two."""
        rank = self.stack.rank(row.adapter) if row.adapter is not None else 0
        return max(rank, EXACT_LEAST_RANK), max(256, 1 << (row.most_places - 1).bit_length())

    def _hold(self, chosen: Sequence[Sequence[Row]]) -> None:
        """Has the adapters of those under way and of those chosen held, and every row told its slot."""
        active = [(place, row) for place, row in enumerate(self.placed) if row is not None]
        names = [row.adapter for _, row in active] + [rows[0].adapter for rows in chosen]
        needed = list(dict.fromkeys(name for name in names if name is not None))
        changed = self.stack.hold(needed, exact=self.exact)
        if changed and self.batch is not None:
            self.batch.lay_out(self.stack.layout)
            if active:
                self.batch.assign([place for place, _ in active], [self._slot(row) for _, row in active])

    def _slot(self, row: Row) -> int | None:
        return None if row.adapter is None else self.stack.slots[row.adapter]

    def _make_room(self, rows: Sequence[Row]) -> None:
        """Makes or enlarges the batch for rows that come in; `most` falls where memory does not hold so many."""
        active, now = self._active(), self.batch
        longest = max(row.most_places for row in (*active, *rows))
        if self.exact:
            length, count = self._kind(rows[0])[1], self.most
        else:
            length, count = -(-longest // BLOCK) * BLOCK, min(self.most, len(active) + len(rows))
        if now is not None and not active and (now.length > 2 * length or (self.exact and now.length != length)):
            now = self.batch = None  # One long prompt must not leave everybody after it long places.
        if now is not None:
            count, length = max(count, now.rows), max(length, now.length)
            if (count, length) == (now.rows, now.length):
                return
        wanted = count if self.exact else padded_rows(count, self.decoder.device)
        count = min(wanted, self._fitting(length))
        if count < 1:
            raise UserError(f"Not even one answer of {length} tokens fits into the memory of {self.decoder.device}.")
        if now is None:
            self.batch = Batch(self.decoder, count, length, self.stack.layout)
        elif count >= now.rows:
            if length > now.length or count == wanted or count >= GROWTH * now.rows:
                now.grow(count, length)
        elif length > now.length:
            self._put_aside()  # Fewer and longer places, for rows that are chosen anew.

    def _fitting(self, length: int) -> int:
        """Rows of so many places that the free memory holds."""
        if self.decoder.device.type != "cuda":
            return self.most if self.exact else padded_rows(self.most, self.decoder.device)
        device = self.decoder.device
        free, total = torch.cuda.mem_get_info(device)
        allocated = torch.cuda.memory_allocated(device)
        free += torch.cuda.memory_reserved(device) - allocated
        # Less where the process may take only a share of it.
        free = min(free, int(torch.cuda.get_per_process_memory_fraction(device) * total) - allocated)
        if self.batch is not None:
            free += self.batch.rows * self.batch.length * self.decoder.row_bytes
        drawing = 6 * 4 * self.decoder.head.shape[0]
        return int(SHARE * free / (length * self.decoder.row_bytes + drawing))

    def _readings(self, groups: Sequence[list[Row]]) -> list[list[list[Row]]]:
        """Groups of one prompt, gathered to readings of about `READ_TOKENS`; exact ones are read one by one."""
        readings: list[list[list[Row]]] = []
        tokens = 0
        for group in groups:
            if not group:
                continue
            length = len(group[0].read)
            if not readings or self.exact or tokens + length > READ_TOKENS:
                readings.append([])
                tokens = 0
            readings[-1].append(group)
            tokens += length
        return readings

    def _read(self, groups: Sequence[list[Row]], taken: dict[Row, int]) -> None:
        """Reads a few prompts, draws the first token of each of their rows and puts the rows in their places."""
        assert self.batch is not None
        for group in groups:
            self._leave_waiting(group)
            for row in group:
                place = taken[row]
                self.placed += [None] * (place + 1 - len(self.placed))
                self.placed[place] = row
        slots = [self._slot(group[0]) for group in groups]
        places = [[taken[row] for row in group] for group in groups]
        scored = [number for number, group in enumerate(groups) if any(row.wants_prompt for row in group)]
        logits, of_prompts = self.batch.read([group[0].read for group in groups], slots, places, scored)
        for number, of_prompt in zip(scored, of_prompts, strict=True):
            for row in groups[number]:
                if row.wants_prompt:
                    row.scored = scored_prompt(of_prompt, row.prompt, row.sampling.prompt_tops)
        rows = [row for group in groups for row in group]
        counts = torch.tensor([len(group) for group in groups], device=logits.device)
        logits = logits.repeat_interleave(counts, 0)
        how = [row.sampling for row in rows]
        told = RowSampling.of(how, [row.seed for row in rows], [len(row.tokens) for row in rows], logits.device)
        drawn = draw(logits, told, filtered=any(is_filtered(sampling) for sampling in how))
        at = [taken[row] for row in rows]
        self.batch.assign(at, [self._slot(row) for row in rows])
        self.batch.start(
            at, drawn, [len(row.read) for row in rows], how, [row.seed for row in rows],
            [len(row.tokens) + 1 for row in rows],
        )  # fmt: skip
        self._note_logprobs(logits, list(enumerate(rows)), drawn)
        for row, token in zip(rows, drawn.tolist(), strict=True):
            self._take(row, (token,))

    def _leave_waiting(self, group: Sequence[Row]) -> None:
        key = group[0].adapter, group[0].read
        rest = self.waiting[key][len(group) :]
        if rest:
            self.waiting[key] = rest
        else:
            del self.waiting[key]

    def _write(self) -> None:
        """A few steps of all rows under way."""
        assert self.batch is not None
        self._close_ranks()
        active = [(place, row) for place, row in enumerate(self.placed) if row is not None]
        listening = any(row.wants_logprobs for _, row in active)
        steps = 1 if listening else min(self.steps, max(row.left for _, row in active))
        used = max(len(row.prompt) + len(row.tokens) for _, row in active) + steps
        filtered = any(is_filtered(row.sampling) for _, row in active)
        count = self.batch.rows if self.exact else active[-1][0] + 1
        tokens = self.batch.run(count, steps, used, filtered=filtered)
        if listening:
            self._note_logprobs(self.batch.logits, active, None, tokens[0])
        # A row's tokens at once: at thousands of rows the GPU would wait for what is done for each.
        of_rows = list(zip(*tokens, strict=True))
        for place, row in active:
            self._take(row, of_rows[place])

    def _take(self, row: Row, tokens: Sequence[int]) -> None:
        """Gives a row its next tokens; a finished row leaves."""
        if not row.take(tokens, self.texts):
            return
        place = self.placed.index(row)
        if row.wants_logprobs:
            row.wrote = self._adapter_at(place)
        self.placed[place] = None
        try:
            row.future.set_result(row.answer(self.texts))
        except BaseException as error:
            row.future.set_exception(error)

    def _adapter_at(self, place: int) -> str:
        """Name of the adapter whose columns a place's row goes by, whatever it was told."""
        assert self.batch is not None
        slot = self.batch.slot_of(place)
        names = {held: name for name, held in self.stack.slots.items()} | {self.stack.layout.slots: BASE}
        return "" if slot is None else names.get(slot, "")

    def _close_ranks(self) -> None:
        """Moves the last rows into the holes before them, where the step then has fewer rows."""
        while self.placed and self.placed[-1] is None:
            self.placed.pop()
        count, top = len(self._active()), len(self.placed)
        assert self.batch is not None
        if self.exact or padded_rows(count, self.batch.device) >= padded_rows(top, self.batch.device):
            return
        holes = [place for place, row in enumerate(self.placed[:count]) if row is None]
        movers = [place for place in range(count, top) if self.placed[place] is not None]
        self.batch.move(list(zip(movers, holes, strict=True)))
        for source, target in zip(movers, holes, strict=True):
            self.placed[target] = self.placed[source]
        del self.placed[count:]

    def _note_logprobs(
        self, logits: torch.Tensor, rows: Sequence[tuple[int, Row]], drawn: torch.Tensor | None,
        tokens: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Keeps log probabilities of the tokens just drawn, for the rows that want them."""
        wanting = [(place, row) for place, row in rows if row.wants_logprobs]
        if not wanting:
            return
        at = torch.tensor([place for place, _ in wanting], device=logits.device)
        taken = drawn[at] if drawn is not None else torch.tensor([tokens[p] for p, _ in wanting], device=logits.device)
        top = max(row.sampling.top_logprobs for _, row in wanting)
        logprobs, best, which = (t.tolist() for t in token_logprobs(logits[at], taken, top))
        for number, (_, row) in enumerate(wanting):
            row.logprobs.append(logprobs[number])
            pairs = zip(which[number], best[number], strict=True)
            row.tops.append(tuple(islice(pairs, row.sampling.top_logprobs)))


def _is_cpu_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120]
