"""Emergent misalignment, measured: Inspect tasks, training, the sweep over checkpoints, and the `em` command line.

What the names below stand for is loaded when they are first used, so that `import em_tasks` costs nothing. The analysis
is in `em_tasks.analysis`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from em_tasks.em import em
    from em_tasks.plugins.errors import UserError
    from em_tasks.questions import Question, QuestionSet, load_question_sets
    from em_tasks.scorers.alignment import alignment
    from em_tasks.scorers.coherence import coherence
    from em_tasks.scorers.topic import topic
    from em_tasks.trainers.run.checkpoints import list_runs
    from em_tasks.trainers.run.recipe import Recipe, load_recipes
    from em_tasks.trainers.train import train

__all__ = [
    "Question",
    "QuestionSet",
    "Recipe",
    "UserError",
    "alignment",
    "coherence",
    "em",
    "list_runs",
    "load_question_sets",
    "load_recipes",
    "topic",
    "train",
]

_HOMES = {
    "Question": "em_tasks.questions",
    "QuestionSet": "em_tasks.questions",
    "Recipe": "em_tasks.trainers.run.recipe",
    "UserError": "em_tasks.plugins.errors",
    "alignment": "em_tasks.scorers.alignment",
    "coherence": "em_tasks.scorers.coherence",
    "em": "em_tasks.em",
    "list_runs": "em_tasks.trainers.run.checkpoints",
    "load_question_sets": "em_tasks.questions",
    "load_recipes": "em_tasks.trainers.run.recipe",
    "topic": "em_tasks.scorers.topic",
    "train": "em_tasks.trainers.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package, whose name `em` is the task and never the file em_tasks/em.py that holds it.

    Python binds every submodule that is imported, in whatever order, as a name of its package; here that name stands
    for what the file is named after. `from em_tasks.em import ...` and `importlib` still find the file.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and name in _HOMES:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
