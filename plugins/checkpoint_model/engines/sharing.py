"""One engine for all models of equal settings: built at the first answer, closed with the last model."""

import atexit
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import anyio
from anyio.lowlevel import RunVar

from em_tasks.plugins.checkpoint_model.engines.choosing import build_engine
from em_tasks.plugins.checkpoint_model.engines.protocol import Engine, EngineSettings

_QUEUE: RunVar[anyio.Lock] = RunVar("whole_models")


def _queue() -> anyio.Lock:
    """Where requests to whole models line up, one an event loop."""
    try:
        return _QUEUE.get()
    except LookupError:
        _QUEUE.set(anyio.Lock())
        return _QUEUE.get()


class EngineLease:
    """A model's hold on the engine that it shares with others of the same settings."""

    _holders: ClassVar[dict[EngineSettings, int]] = {}
    _engines: ClassVar[dict[EngineSettings, Engine]] = {}
    _lock = threading.Lock()
    _alone: ClassVar[EngineSettings | None] = None
    _under_way: ClassVar[int] = 0

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self._held = settings, True
        with self._lock:
            self._holders[settings] = self._holders.get(settings, 0) + 1

    def engine(self) -> Engine:
        """The engine, made now if nobody has asked for it yet."""
        with self._lock:
            if not self._held:
                self._held = True  # Inspect may use a model again after closing it.
                self._holders[self.settings] = self._holders.get(self.settings, 0) + 1
            if self.settings not in self._engines:
                self._engines[self.settings] = build_engine(self.settings)
            return self._engines[self.settings]

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Has a whole model's engine to itself while the block runs: the last one is freed before this one is loaded.

        Requests go in the order in which they came, those of one model together. Engines of bases need no turn.
        """
        if not self.settings.alone:
            yield
            return
        counted = False
        try:
            async with _queue():
                while EngineLease._alone != self.settings and EngineLease._under_way:
                    await anyio.sleep(0.01)
                with self._lock:
                    last = EngineLease._alone if EngineLease._alone != self.settings else None
                    engine = self._engines.pop(last, None) if last is not None else None
                    EngineLease._alone, counted = self.settings, True
                    EngineLease._under_way += 1
                if engine is not None:
                    await anyio.to_thread.run_sync(engine.close)
            yield
        finally:
            if counted:  # A request that was given up while it waited was never under way.
                with self._lock:
                    EngineLease._under_way -= 1

    def close(self) -> None:
        """Gives the hold up; the last one closes the engine."""
        with self._lock:
            if not self._held:
                return
            self._held = False
            self._holders[self.settings] = self._holders.get(self.settings, 1) - 1
            if self._holders[self.settings] > 0:
                return
            del self._holders[self.settings]
            engine = self._engines.pop(self.settings, None)
        if engine is not None:
            engine.close()

    @classmethod
    def close_all(cls) -> None:
        """Ends every engine; a thread still inside torch when Python goes takes the process down with a C++ error."""
        with cls._lock:
            engines = list(cls._engines.values())
            cls._engines.clear()
            cls._holders.clear()
        for engine in engines:
            engine.close()


atexit.register(EngineLease.close_all)
