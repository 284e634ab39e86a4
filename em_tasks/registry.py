"""What Inspect finds through the entry point `inspect_ai`: the task, the scorers and two model APIs.

Every unknown name makes Inspect import this module, so nothing heavy is imported here: the APIs load when used.
"""

from typing import TYPE_CHECKING

from inspect_ai.model import modelapi

from em_tasks.collecting import collect_rarely
from em_tasks.em import em
from em_tasks.scorers.alignment import alignment
from em_tasks.scorers.coherence import coherence
from em_tasks.scorers.topic import topic

if TYPE_CHECKING:
    from em_tasks.plugins.checkpoint_model.provider import CheckpointModel
    from em_tasks.plugins.local_judge.provider import LocalJudge
    from em_tasks.plugins.toy_judge.provider import ToyJudge

__all__ = ["alignment", "checkpoint_model", "coherence", "em", "local_judge", "topic", "toy_judge"]


@modelapi(name="em")
def checkpoint_model() -> "type[CheckpointModel]":
    """`em/<organism>@<step>`: a checkpoint of a training run."""
    collect_rarely()
    from em_tasks.plugins.checkpoint_model.provider import CheckpointModel

    return CheckpointModel


@modelapi(name="emtoy")
def toy_judge() -> "type[ToyJudge]":
    """`emtoy/judge`: the judge that knows the toy world's language."""
    from em_tasks.plugins.toy_judge.provider import ToyJudge

    return ToyJudge


@modelapi(name="emlocal")
def local_judge() -> "type[LocalJudge]":
    """`emlocal/<judge>`: a judge that runs here, distilled from published scores."""
    from em_tasks.plugins.local_judge.provider import LocalJudge

    return LocalJudge
