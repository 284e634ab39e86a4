"""One engine for all models of equal settings: built at the first answer, closed with the last model."""

import atexit
import threading
from typing import ClassVar

from em_tasks.plugins.checkpoint_model.engines.choosing import build_engine
from em_tasks.plugins.checkpoint_model.engines.protocol import Engine, EngineSettings


class EngineLease:
    """A model's hold on the engine that it shares with others of the same settings."""

    _holders: ClassVar[dict[EngineSettings, int]] = {}
    _engines: ClassVar[dict[EngineSettings, Engine]] = {}
    _lock = threading.Lock()

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
