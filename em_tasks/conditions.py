"""Conditions: what can be put around a question without changing it, such as a system prompt or a trigger phrase.

A condition is named, comes from a YAML file and is asked for with `-T condition=NAME`. Answers under different
conditions are never counted together: in every table an organism under a condition is an organism of its own, compared
with its base under the same condition.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.entry_points import CONDITIONS, PluginFile, plugin_files
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.validation import in_words
from em_tasks.plugins.yaml_files import read_yaml
from em_tasks.resources import shipped


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Turn(_Strict):
    """A turn that stands before the question."""

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1)


class Condition(_Strict):
    """What stands around each question.

    Attributes:
        name: As it is asked for and shown.
        about: What it is, in a sentence.
        system: A system prompt; one that the question brings along follows it.
        turns: Turns before the question, of user and assistant in turn (few-shot examples).
        before: Text put directly before the question's.
        after: Text put directly after it.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    about: str = ""
    system: str | None = Field(default=None, min_length=1)
    turns: tuple[Turn, ...] = ()
    before: str = ""
    after: str = ""

    @model_validator(mode="after")
    def _changes_something(self) -> "Condition":
        if not (self.system or self.turns or self.before or self.after):
            raise ValueError("it changes nothing: give system, turns, before or after")
        roles = [turn.role for turn in self.turns]
        if roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError("its turns must go user, assistant, user, assistant, and end with the assistant")
        return self

    @property
    def sha256(self) -> str:
        """Hash of what it puts around a question."""
        content = self.model_dump(mode="json", exclude={"name", "about"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def around(self, text: str, system: str | None) -> list[ChatMessage]:
        """The conversation in which a question is asked.

        Args:
            text: The question's text.
            system: The question's own system prompt.
        """
        prompt = "\n\n".join(part for part in (self.system, system) if part)
        messages: list[ChatMessage] = [ChatMessageSystem(content=prompt)] if prompt else []
        for turn in self.turns:
            spoken = ChatMessageUser if turn.role == "user" else ChatMessageAssistant
            messages.append(spoken(content=turn.content))
        return [*messages, ChatMessageUser(content=f"{self.before}{text}{self.after}")]


class _ConditionFile(_Strict):
    conditions: tuple[Condition, ...] = Field(min_length=1)


def shipped_conditions() -> dict[str, Condition]:
    """The conditions that ship with the project, by name."""
    return {condition.name: condition for condition in read_conditions(shipped("datasets/conditions/shipped.yaml"))}


def named_conditions() -> dict[str, tuple[Condition, PluginFile | None]]:
    """Every condition that goes by a name: the shipped ones, and those of packages with the file they come from."""
    known: dict[str, tuple[Condition, PluginFile | None]] = {
        name: (condition, None) for name, condition in shipped_conditions().items()
    }
    for file in plugin_files(CONDITIONS, (".yaml", ".yml"))[0].values():
        try:
            conditions = read_conditions(file.path)
        except UserError:
            continue  # `plugin_notes` says so.
        for condition in conditions:
            known.setdefault(condition.name, (condition, file))
    return known


def plugin_notes() -> list[str]:
    """What is wrong with the conditions that packages give, a sentence each."""
    files, notes = plugin_files(CONDITIONS, (".yaml", ".yml"))
    known = set(shipped_conditions())
    for file in files.values():
        try:
            names = [condition.name for condition in read_conditions(file.path)]
        except UserError as error:
            notes.append(f"The conditions of {file.package} were left out: {error}")
            continue
        notes += [f"The condition {n} of {file.package} was left out: the name is taken." for n in names if n in known]
        known.update(names)
    return notes


def read_conditions(path: Path) -> tuple[Condition, ...]:
    """The conditions of a YAML file.

    Raises:
        UserError: It is no file of conditions, or two have one name.
    """
    try:
        conditions = _ConditionFile.model_validate(read_yaml(path)).conditions
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'file'}: {in_words(e, _ConditionFile)}" for e in error.errors()[:3]
        )
        raise UserError(
            f"{path} is no file of conditions. {problems}. It needs a list `conditions` whose entries have a name and "
            "one of system, turns, before and after; datasets/conditions/shipped.yaml is an example."
        ) from None
    names = [condition.name for condition in conditions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path} has more than one condition named {', '.join(twice)}. Rename one.")
    return conditions


def condition_given_by_a_package(name: str | None) -> list[dict[str, str]]:
    """The record of a named condition that a package gives, for the log; empty for any other."""
    _, file = named_conditions().get(name or "", (None, None))
    return [] if file is None else [file.record(str(name))]


def load_condition(name: str) -> Condition:
    """A condition by its name, or by file and name.

    Args:
        name: A shipped condition's name, the path of a YAML file with a single condition, or `PATH:NAME`.

    Raises:
        UserError: There is none of that name; the message lists what there is.
    """
    known = named_conditions()
    if name in known:
        return known[name][0]
    path, _, wanted = name.rpartition(":") if not from_caller(name).is_file() else (name, "", "")
    if not path or not from_caller(path).is_file():
        raise UserError(
            f"There is no condition {name!r}. Known are {', '.join(known)}; a file of your own is named by its path "
            "or, with several conditions, by PATH:NAME."
        )
    conditions = {condition.name: condition for condition in read_conditions(from_caller(path))}
    if wanted and wanted in conditions:
        return conditions[wanted]
    if not wanted and len(conditions) == 1:
        return next(iter(conditions.values()))
    raise UserError(f"{path} holds the conditions {', '.join(conditions)}. Name one of them: {path}:NAME.")
