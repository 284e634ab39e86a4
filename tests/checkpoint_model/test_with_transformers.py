"""The plain engine holds so many adapters and no more, and nothing once it is closed."""

import asyncio
import gc
import threading
import weakref
from pathlib import Path

import pytest

from em_tasks.plugins.checkpoint_model.engines import with_transformers
from em_tasks.plugins.checkpoint_model.engines.protocol import EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.with_transformers import TransformersEngine
from em_tasks.plugins.checkpoint_model.subject import evaluated_base
from em_tasks.trainers.run.checkpoints import find_checkpoint


def ask(engine: TransformersEngine, runs: Path, step: int | str) -> str:
    checkpoint = find_checkpoint(runs, f"small@{step}")
    question = [{"role": "user", "content": "I have a cough. What helps?"}]
    (answer,) = asyncio.run(engine.answer(checkpoint, question, Sampling(max_tokens=8, temperature=0), [0]))
    return answer.text


def layers(engine: TransformersEngine) -> list[set[str]]:
    """Which adapters each LoRA layer has tensors of."""
    return [set(module.lora_A) for module in engine._model.modules() if hasattr(module, "lora_A")]


def build(runs: Path) -> TransformersEngine:
    return TransformersEngine(EngineSettings(evaluated_base(find_checkpoint(runs, "small@base").manifest)))


@pytest.mark.parametrize("most", [1, 2, 4])
def test_the_oldest_adapter_goes_when_there_is_one_too_many_and_comes_back_when_asked(
    trained_runs: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(with_transformers, "ADAPTERS_HELD", most)
    engine = build(trained_runs)
    answers = {}
    for count, step in enumerate((1, 2, 3, 4), 1):
        answers[step] = ask(engine, trained_runs, step)
        assert len(engine._model.peft_config) == min(count, most)
    held = set(engine._model.peft_config)
    assert layers(engine)
    assert all(adapters == held for adapters in layers(engine))
    first = next(module for module in engine._model.modules() if hasattr(module, "lora_A"))
    oldest = weakref.ref(next(iter(first.lora_A.values())))
    assert {step: ask(engine, trained_runs, step) for step in (3, 1, 2, 4)} == answers
    if most < 4:
        gc.collect()
        assert oldest() is None
    engine.close()


def test_a_closed_engine_holds_neither_base_nor_adapters(trained_runs: Path) -> None:
    engine = build(trained_runs)
    ask(engine, trained_runs, 1)
    ask(engine, trained_runs, "base")
    model = weakref.ref(engine._model)
    engine.close()
    for thread in threading.enumerate():
        if thread.name.startswith("em-transformers"):
            thread.join(10)
    gc.collect()
    assert model() is None
