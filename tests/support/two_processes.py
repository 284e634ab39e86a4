"""What tests/test_several_processes.py has torchrun start: several runs, and how they ended in each process."""

import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from em_tasks.trainers.loop.progress import Progress
from em_tasks.trainers.run.recipe import Recipe, load_recipes
from em_tasks.trainers.train import train


def ending(work: Callable[[], object]) -> str:
    """How `work` ended: nothing, an exit status, or an error."""
    try:
        work()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


def command(*arguments: str) -> Callable[[], object]:
    """`python -m em_tasks ARGUMENTS` in this process."""

    def run() -> None:
        sys.argv[1:] = arguments
        runpy.run_module("em_tasks", run_name="__main__")

    return run


def main(folder: Path) -> None:
    """Trains the recipe in `folder` without and with a stop, and asks for what must be refused."""
    (recipe,) = load_recipes(folder / "organism.yaml")
    uneven = Recipe.model_validate(recipe.model_dump() | {"organism": "uneven", "batch_size": 3, "accumulation": 1})
    other = recipe.model_copy(update={"seed": 1})
    reports = 0

    def ask(progress: Progress) -> None:
        nonlocal reports
        reports += 1
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGINT)

    ended = {
        "whole": ending(command("train", str(folder / "organism.yaml"), "--runs", str(folder / "whole"))),
        "stopped": ending(lambda: train(recipe, folder / "stopped", ask)),
        "went on": ending(lambda: train(recipe, folder / "stopped", lambda progress: None)),
        "other": ending(lambda: train(other, folder / "whole", ask)),
        "uneven": ending(lambda: train(uneven, folder / "whole", ask)),
        "reports": str(reports),
    }
    (folder / f"ended-{os.environ['RANK']}.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
