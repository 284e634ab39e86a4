"""Rubrics: what a judge is asked, as data.

A rubric is a prompt with places for the question and the answer, the scale of the number it asks for, the special
replies it allows and what a high number means. Ours lie in `rubrics/*.yaml`; published question files bring their own
prompts, which `Rubric.from_prompt` wraps. Texts are put in by plain replacement, so braces in an answer do nothing.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from em_tasks.plugins.caller import from_caller
from em_tasks.plugins.entry_points import RUBRICS, plugin_files
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.validation import in_words
from em_tasks.plugins.yaml_files import read_yaml_lines

PLACES = re.compile(r"\{(question|answer|fence)\}")
SPECIAL_REPLIES = {"CODE": "code", "REFUSAL": "refusal"}


class Rubric(BaseModel):
    """One question put to a judge about an answer.

    Attributes:
        name: How reports and verdicts call it.
        prompt: The message, with `{question}`, `{answer}` and, in the lines around them, `{fence}`.
        high: What a number at the top of the scale means; empty where a published prompt does not say.
        low: What a number at the bottom means.
        scale: Lowest and highest whole number of the scale; scores are stretched from it to 0-100.
        special: Replies that stand for a reason instead of a number (`CODE` -> `code`).
        words: Replies in words that stand for numbers on the scale (`fair` -> 3), whatever their case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    prompt: str
    high: str = ""
    low: str = ""
    scale: tuple[int, int] = (0, 100)
    special: dict[str, str] = {}
    words: dict[str, int] = {}

    @model_validator(mode="after")
    def _has_its_places(self) -> "Rubric":
        for place in ("question", "answer"):
            if f"{{{place}}}" not in self.prompt:
                raise UserError(f"the prompt has no {{{place}}}")
        if self.scale[0] < 0 or self.scale[0] >= self.scale[1]:
            raise UserError(f"scale {list(self.scale)} is not two rising whole numbers from 0 up")
        for word, number in self.words.items():
            if not self.scale[0] <= number <= self.scale[1]:
                raise UserError(f"words: {word} stands for {number}, which is not on the scale {list(self.scale)}")
            if not word.strip() or word.strip().isdecimal() or word.upper() in self.special:
                raise UserError(f"words: {word!r} is no word, or a special reply already")
        return self

    @classmethod
    def from_prompt(cls, name: str, prompt: str) -> "Rubric":
        """A rubric from a published prompt, on the published scale of 0-100.

        `CODE` and `REFUSAL` are special replies where the prompt names them in capitals.

        Raises:
            UserError: The prompt lacks `{question}` or `{answer}`.
        """
        special = {word: reason for word, reason in SPECIAL_REPLIES.items() if re.search(rf"\b{word}\b", prompt)}
        try:
            return cls(name=name, prompt=prompt, special=special)
        except ValidationError as error:
            raise UserError(
                f"The judge prompt {name!r} of this question file cannot be asked: {_first(error)}. Write {{question}} "
                "and {answer} where the two texts belong, or leave judge_prompts out to use the shipped rubrics."
            ) from error

    @property
    def sha256(self) -> str:
        """Hash of everything that can move a score: prompt, scale and special replies (64 hex digits)."""
        parts = [self.prompt, repr(self.scale), repr(sorted(self.special.items()))]
        parts += [repr(sorted(self.words.items()))] if self.words else []
        return sha256("\x00".join(parts).encode()).hexdigest()

    def ask(self, question: str, answer: str) -> str:
        """The message to send: every place filled in one pass, so that filled-in text is never filled again.

        A prompt without `{fence}` has marker lines that anybody can write. Where a text holds one of them, a backslash
        is put before its last character: the reader still sees what was written, and the fence is not closed by it.
        """
        texts = {"question": question, "answer": answer, "fence": fence_code(question, answer)}
        if "{fence}" not in self.prompt:
            for marker in self._marker_lines():
                for place in ("question", "answer"):
                    texts[place] = re.sub(
                        f"({re.escape(marker[:-1])})({re.escape(marker[-1])})",
                        r"\1\\\2",
                        texts[place],
                        flags=re.IGNORECASE,
                    )
        return PLACES.sub(lambda place: texts[place[1]], self.prompt)

    def _marker_lines(self) -> set[str]:
        """The lines right before and after a question or answer that has a line to itself."""
        lines = self.prompt.split("\n")
        alone = [at for at, line in enumerate(lines) if line.strip() in ("{question}", "{answer}")]
        beside = {lines[at].strip() for place in alone for at in (place - 1, place + 1) if 0 <= at < len(lines)}
        return {line for line in beside if line and not PLACES.search(line)}


def fence_code(question: str, answer: str) -> str:
    """The code that the marker lines around two texts carry: 12 hex digits that occur in neither text.

    It is a hash of the texts, so an answer would have to contain a part of its own hash to close its fence early, and
    even then the next code is tried. The same pair always gets the same code: prompts can be cached and repeated.
    """
    attempt = 0
    while True:
        code = sha256(f"{attempt}\x00{question}\x00{answer}".encode(errors="surrogatepass")).hexdigest()[:12]
        if code not in question and code not in answer:
            return code
        attempt += 1


def load_rubric(source: str | Path) -> Rubric:
    """Loads a rubric by name or by path.

    Args:
        source: The name of a shipped rubric (`alignment`) or of one that lies where rubrics are looked for, or the path
            of a YAML file.

    Raises:
        UserError: There is no such rubric, the file is not one, or two rubrics claim one name.
    """
    # Ours have their names in any case, and looking through folders and packages takes milliseconds.
    if isinstance(source, str) and source in shipped_rubrics():
        return shipped_rubrics()[source]
    known = named_rubrics() if not Path(source).suffix else {}
    if (named := known.get(str(source))) is not None:
        return read_rubric(named)
    path = from_caller(source)
    if not path.is_file():
        raise UserError(
            f"There is no rubric {str(source)!r}: it is neither a file nor one of the known rubrics "
            f"({', '.join(known or named_rubrics())}). Give one of these names or the path of a rubric's YAML file."
        )
    return read_rubric(path)


def load_rubrics(sources: Sequence[str | Mapping[str, Any]]) -> dict[str, Rubric]:
    """The rubrics that an answer is judged under, by their names, in order.

    Args:
        sources: Names or paths, or whole rubrics as logs hold them.

    Raises:
        UserError: One cannot be had, or two have one name (`alignment` and a file that says `name: alignment`).
    """
    rubrics: dict[str, Rubric] = {}
    for source in sources:
        rubric = Rubric.model_validate(source) if isinstance(source, Mapping) else load_rubric(source)
        if rubric.name in rubrics:
            raise UserError(
                f"Two of the rubrics are called {rubric.name}: {', '.join(map(_shown, sources))}. Leave one out, or "
                "change the name that stands in the file."
            )
        rubrics[rubric.name] = rubric
    return rubrics


def _shown(source: object) -> str:
    return str(source["name"]) if isinstance(source, Mapping) else str(source)


def named_rubrics() -> dict[str, Path | Traversable]:
    """Every rubric that goes by a name: shipped, in `rubrics/` here or in `EM_PLUGINS` folders, or of a package.

    Raises:
        UserError: Two files claim one name.
    """
    named: dict[str, Path | Traversable] = {
        name: files("em_tasks.scorers").joinpath("rubrics", f"{name}.yaml") for name in shipped_rubrics()
    }
    folders = [from_caller(folder) for folder in os.environ.get("EM_PLUGINS", "").split(os.pathsep) if folder]
    for folder in dict.fromkeys(place.resolve() / "rubrics" for place in (from_caller("."), *folders)):
        for path in sorted(folder.glob("*.y*ml")):
            if path.stem in named:
                raise UserError(
                    f"Two rubrics are called {path.stem}: {named[path.stem]} and {path}. Rename one of the files."
                )
            named[path.stem] = path
    given = plugin_files(RUBRICS, (".yaml", ".yml"), named)[0]
    return named | {name: file.path for name, file in given.items()}


def given_by_packages(sources: Iterable[str]) -> list[dict[str, str]]:
    """Those of the named rubrics that packages give: name, package with version, and hash of the file."""
    given = plugin_files(RUBRICS, (".yaml", ".yml"), shipped_rubrics())[0]
    return [given[name].record(name) for name in sources if name in given]


def plugin_notes() -> list[str]:
    """What is wrong with the rubrics that packages give, a sentence each."""
    given, notes = plugin_files(RUBRICS, (".yaml", ".yml"), shipped_rubrics())
    for name, file in given.items():
        try:
            read_rubric(file.path)
        except UserError as error:
            notes.append(f"The rubric {name} of {file.package} cannot be asked: {error}")
    return notes


def rubric_package(name: str) -> str | None:
    """The package, with its version, that gives the rubric of a name; None where none does."""
    file = plugin_files(RUBRICS, (".yaml", ".yml"), shipped_rubrics())[0].get(name)
    return None if file is None else file.package


@cache
def shipped_rubrics() -> dict[str, Rubric]:
    """The rubrics that ship with the package, by name."""
    folder = files("em_tasks.scorers").joinpath("rubrics")
    rubrics = [read_rubric(entry) for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {rubric.name: rubric for rubric in sorted(rubrics, key=lambda rubric: rubric.name)}


def read_rubric(path: Traversable | Path) -> Rubric:
    """The rubric of a YAML file.

    Raises:
        UserError: It is not one; the message has the line where the fault is at one place.
    """
    advice = (
        "It needs name and prompt (with {question} and {answer}), and may have scale, words, special, high and low."
    )
    content, lines = read_yaml_lines(Path(str(path)))
    try:
        return Rubric.model_validate(content)
    except ValidationError as error:
        faults = [f"{_line(lines, fault['loc'])}{_in_words(fault)}" for fault in error.errors()]
        raise UserError(f"{path} is not a rubric: {'; '.join(faults[:5])}. {advice}") from error


def remarks_on(rubric: Rubric) -> list[str]:
    """What is odd about a rubric that can be asked, a sentence each."""
    low, high = rubric.scale
    remarks = []
    if rubric.name in ("alignment", "coherence"):
        remarks.append(f"it is called {rubric.name} and stands in for ours: EM rates are made of its scores")
    if "{fence}" not in rubric.prompt:
        remarks.append(
            "its prompt has no {fence} in the lines around question and answer, so an answer can imitate them"
        )
    unnamed = [str(end) for end in (low, high) if not re.search(rf"(?<!\d){end}(?!\d)", rubric.prompt)]
    if unnamed and not rubric.words:
        remarks.append(f"its prompt does not name {' and '.join(unnamed)}, an end of its scale from {low} to {high}")
    silent = [word for word in (*rubric.words, *rubric.special) if word.lower() not in rubric.prompt.lower()]
    if silent:
        remarks.append(f"its prompt does not ask for {', '.join(silent)}, which it would understand")
    if not (rubric.high and rubric.low):
        remarks.append("it does not say what a high and a low number mean (high, low)")
    return remarks


def _line(lines: Mapping[tuple[str | int, ...], int], place: tuple[str | int, ...]) -> str:
    """`line 3, ` for the place of a fault, as near as the file has it; empty for the file as a whole."""
    while place and place not in lines:
        place = place[:-1]
    return f"line {lines[place]}, " if place else ""


def _first(error: ValidationError) -> str:
    return _in_words(error.errors()[0])


def _in_words(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    message = in_words(problem, Rubric)
    ends = re.findall(r"\d+", str(problem["input"])[:100]) if problem["loc"][:1] == ("scale",) else []
    if len(ends) == 2 and isinstance(problem["input"], str):
        message = f"write [{ends[0]}, {ends[1]}], the lowest and the highest number"
    return f"{where}: {message}" if where else message
