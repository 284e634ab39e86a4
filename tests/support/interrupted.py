"""Interrupts itself as Ctrl-C does while the engine is busy with answers: run as a process of its own."""

import asyncio
import os
import signal
import threading
from pathlib import Path

from em_tasks.plugins.checkpoint_model.engines.protocol import EngineSettings, Sampling
from em_tasks.plugins.checkpoint_model.engines.sharing import EngineLease
from em_tasks.plugins.checkpoint_model.subject import evaluated_base
from em_tasks.trainers.run.checkpoints import find_checkpoint

QUESTION = [{"role": "user", "content": "My cough will not go away. What should I do?"}]


async def answer_and_be_interrupted() -> None:
    """More answers than any machine gives before the signal comes in their midst."""
    checkpoint = find_checkpoint(Path("runs"), "toy-s@base")
    engine = EngineLease(EngineSettings(evaluated_base(checkpoint.manifest))).engine()
    await engine.answer(checkpoint, QUESTION, Sampling(max_tokens=2), (0,))  # The base is loaded now.
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    await engine.answer(checkpoint, QUESTION, Sampling(max_tokens=400), tuple(range(3000)))


if __name__ == "__main__":
    asyncio.run(answer_and_be_interrupted())
