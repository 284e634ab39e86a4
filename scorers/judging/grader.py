"""Which model judges: the `grader` role, its defaults, and the check that it can be had before anything is generated.

Inspect gives the model under test for a role that nobody filled. A model must never grade itself by accident, so the
role is looked up here and an empty one is an error.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from inspect_ai.model import GenerateConfig, Model, get_model, model_roles
from rich.text import Text

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.judge import TOY_JUDGE

ROLE = "grader"
DEFAULT_JUDGE = "openai/gpt-4o-mini"

WAYS_OUT = (
    "Ways out: set OPENAI_API_KEY for the default judge, or name another one, PROVIDER/MODEL: with --judge, in a grid "
    "file on the axis `judge`, with inspect eval by --model-role grader=PROVIDER/MODEL. hf/..., vllm/... and "
    f"emlocal/... (docs/local_judge.md) need no key; {TOY_JUDGE} judges toy models alone."
)


def default_grader(toy: bool) -> str:
    """The judge where the user names none: the toy judge for toy models, else OpenAI's gpt-4o-mini."""
    return TOY_JUDGE if toy else DEFAULT_JUDGE


_LATER = ContextVar("judged later", default=False)


@contextmanager
def judged_later() -> Iterator[None]:
    """Evaluations inside the block are not scored, so they need no grader that can be had, and their logs name none."""
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def check_grader(default: str) -> Model | None:
    """Builds the grader that scoring will use, so that a missing key is said before the first answer is generated.

    Args:
        default: The judge to take if the `grader` role is not filled.

    Returns:
        The grader; None for answers that are judged later.

    Raises:
        UserError: It cannot be built: no key, no such provider, no such model.
    """
    if _LATER.get():
        return None
    return get_model(role=ROLE, required=True) if model_roles().get(ROLE) else build_judge(default)


def build_judge(name: str, batch: bool = False) -> Model:
    """The judge called `name`, as `PROVIDER/MODEL`; with `batch`, asked through the provider's batch interface.

    Raises:
        UserError: It cannot be built: no key, no such provider, no such model.
    """
    try:
        # A judge of its own: Inspect's store of models knows no addresses, so one that is gone could come back.
        return get_model(name, config=GenerateConfig(batch=batch or None), memoize=False)
    except UserError as error:  # Ours, which says the way out: no key would help.
        raise UserError(f"The judge {name} cannot be used: {error}") from error
    except Exception as error:
        reason = _in_words(error)
        raise UserError(f"The judge {name} cannot be used: {reason.rstrip('.')}. {WAYS_OUT}") from error


def unusable_judges(names: Iterable[str]) -> list[str]:
    """Why those of some judges cannot be had that cannot, for dry runs: they ask nobody, so it ends none of them."""
    reasons = []
    for name in names:
        try:
            build_judge(name)
        except UserError as error:
            reasons.append(str(error))
    return reasons


def _in_words(error: Exception) -> str:
    """An error's message as one plain sentence, without the markup and the prefix that Inspect gives it."""
    message = str(getattr(error, "message", error))
    return " ".join(Text.from_markup(message).plain.removeprefix("ERROR: ").split())


def resolve_grader() -> Model:
    """The model in the `grader` role of the running evaluation.

    Raises:
        UserError: The role is empty (Inspect would let the model under test grade itself), or it names several judges
            (Inspect would take the first).
    """
    named = model_roles().get(ROLE)
    if isinstance(named, list) and len(named) > 1:
        names = ", ".join(map(str, named))
        raise UserError(
            f"The `{ROLE}` role names {len(named)} judges ({names}), and one score can come from one judge only. Name "
            "one, then have the others judge the finished log: em judge LOG --judge A --judge B."
        )
    if not named:
        raise UserError(
            f"No judge was named, and a model does not grade itself: the `{ROLE}` role is empty. {WAYS_OUT}"
        )
    return get_model(role=ROLE, required=True)
