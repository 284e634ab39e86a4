"""What a test leaves out that other tests hold: processes of a sweep's own, and the drawing of figures."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from inspect_ai.model._model import _models
from matplotlib.figure import Figure

from em_tasks.plugins.checkpoint_model.provider import CheckpointModel
from em_tasks.plugins.errors import UserError
from em_tasks.sweep import other_tasks, run
from em_tasks.sweep.pool import Outcome, Work


class Here:
    """Does a sweep's work in this process, one piece after the other, where `Pool` starts a process for each.

    What a process costs is the import of torch, transformers and Inspect, more than all that a toy model does.
    """

    def __init__(self, slots: Sequence[dict[str, str]], report: Callable[[Any], None]) -> None:
        self.report = report

    def run(self, works: Sequence[Work], more: Callable[[Sequence[Outcome]], Sequence[Work] | None]) -> list[Outcome]:
        """See `Pool.run`."""
        waiting, outcomes = list(works), list[Outcome]()
        while True:
            ended = [self._do(work) for work in waiting[:1]]
            waiting, outcomes = waiting[1:], outcomes + ended
            coming = more(ended)
            waiting += coming or ()
            if coming is None and not waiting:
                return outcomes

    def _do(self, work: Work) -> Outcome:
        try:
            with mock.patch.dict(os.environ):
                return Outcome(work, result=work.function(*work.arguments, self.report))
        except UserError as error:
            return Outcome(work, error=str(error))
        finally:
            for model in _models.values():
                if isinstance(model.api, CheckpointModel):
                    model.api.close()
            _models.clear()


@contextmanager
def swept_here() -> Iterator[None]:
    """Sweeps inside the block do their work in this process."""
    with mock.patch.object(run, "Pool", Here), mock.patch.object(other_tasks, "Pool", Here):
        yield


@contextmanager
def undrawn() -> Iterator[None]:
    """Reports inside the block make every figure, place nothing in it and leave its files empty: most of their time."""

    def leave_empty(figure: Figure, file: Any, **options: Any) -> None:
        if isinstance(file, Path):
            file.touch()

    with mock.patch.object(Figure, "savefig", leave_empty), mock.patch.object(Figure, "tight_layout"):
        yield


@contextmanager
def drawn_coarsely() -> Iterator[None]:
    """Reports inside the block draw every file of a figure, with few pixels, and no page's picture: the same again."""
    draw = Figure.savefig

    def draw_coarsely(figure: Figure, file: Any, **options: Any) -> None:
        if options.get("format") != "png":
            draw(figure, file, **{**options, "dpi": 30})

    with mock.patch.object(Figure, "savefig", draw_coarsely):
        yield
