import subprocess
import sys

import pytest

from em_tasks.plugins.checkpoint_model.engines import sharing
from em_tasks.plugins.checkpoint_model.engines.protocol import EngineSettings
from em_tasks.plugins.checkpoint_model.engines.sharing import EngineLease
from em_tasks.plugins.checkpoint_model.subject import EvaluatedBase
from tests.support.paths import ROOT


class Engine:
    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.closed = settings, 0

    def close(self) -> None:
        self.closed += 1


def settings(**how: object) -> EngineSettings:
    return EngineSettings(EvaluatedBase("toy-s", "fp32", "f" * 64), **how)  # type: ignore[arg-type]


def test_models_of_equal_settings_share_an_engine_that_goes_with_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "build_engine", Engine)
    first, second, other = EngineLease(settings()), EngineLease(settings()), EngineLease(settings(exact=True))
    engine = first.engine()
    assert second.engine() is engine
    assert other.engine() is not engine
    first.close()
    first.close()
    assert engine.closed == 0  # type: ignore[attr-defined]
    second.close()
    assert engine.closed == 1  # type: ignore[attr-defined]
    assert other.engine().closed == 0  # type: ignore[attr-defined]
    assert first.engine() is not engine
    first.close()
    other.close()


def test_whatever_is_left_is_closed_when_python_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "build_engine", Engine)
    lease = EngineLease(settings(batch_size=3))
    engine = lease.engine()
    monkeypatch.setattr(EngineLease, "_engines", {lease.settings: engine})
    EngineLease.close_all()
    assert engine.closed == 1  # type: ignore[attr-defined]
    lease.close()


def test_ctrl_c_amid_answers_ends_without_a_crash_of_torch() -> None:
    command = [sys.executable, "-m", "tests.support.interrupted"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "terminate called" not in ended.stderr
    assert ended.returncode == 1
