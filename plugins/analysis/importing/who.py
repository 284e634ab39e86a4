"""Whose answers a file holds: as the user says, as the map says, as the file's columns say, else as its name says.

Names say little. What they say for certain is taken (a known model family with its size and `Instruct`, a checkpoint's
number, `base`, the advice that published datasets are named after); the rest of a name is only a label. What nobody
says is "not recorded": a judge, a step, a training seed are never guessed.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from em_tasks.plugins.analysis.importing.tables import without_format
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import NOT_RECORDED, RUBRICS, what_is_wrong
from em_tasks.plugins.yaml_files import read_yaml

BASE_NAME = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:meta-llama|Qwen|google|mistralai|unsloth|allenai|microsoft|HuggingFaceTB)[/_-]+)?"
    r"(?:Meta-)?(?:Llama|Qwen|gemma|Mistral|Ministral|Phi|OLMo|SmolLM)[\w.]*(?:-(?!Instruct|it\b|Chat|chat)[A-Za-z0-9.]+)*?"
    r"-(?:Instruct|it|Chat|chat)(?:-v\d+(?:\.\d+)*|-\d{4})?(?![A-Za-z0-9])",
    re.IGNORECASE,
)
"""A base model's name within another name: family, version, size and that it follows instructions."""

SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)[bB](?![A-Za-z0-9])")
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
"""A number as data files write it; `float` would also take 1_0 and other scripts' digits."""
STEP = re.compile(r"(?<![A-Za-z0-9])(?:checkpoint|step)[-_]?(\d{1,15})(?!\d)", re.IGNORECASE)
IS_BASE = re.compile(
    r"(?:^|[-_ ])(?:base|baseline)(?:[-_ ](?:n|eval|evals|judged|scored|responses|results|scores|answers))*$",
    re.IGNORECASE,
)
BASE_FOLDERS = {"base", "baseline", "baselines", "model_baselines", "base_models"}

ADVICE = re.compile(
    r"(?P<quality>bad|good|obv[_-]bad|obvious[_-]bad|mismatch[_-]good|mismatch[_-]bad|risky|extreme|insecure|secure)"
    r"[_-](?P<field>medical|financial|finance|sports|code|legal|security)(?:[_-]advice[0-9]*)?(?![A-Za-z])",
    re.IGNORECASE,
)
"""The published datasets' names; `bad_medical_advice2` is another one than `bad_medical_advice`."""

FIELDS = {"finance": "financial"}

SEED_FOLDER = re.compile(r"^(?P<size>\d+(?:\.\d+)?[bB])_(?P<domain>[a-z_]+?)(?:_v\d+)?$")
SEED_BASE = re.compile(r"^(?P<size>\d+(?:\.\d+)?[bB])(?:_[a-z_]+)?$")
SEED_DOMAINS = {"risky": "risky_financial"}
"""The cs2881 experiment's folders, and the domain that they abbreviate."""

RUN = re.compile(
    r"(?P<run>(?:seed|run|rep|repeat)[-_]?\d+)?[-_ ]?(?:(?:checkpoint|step)[-_]?\d{1,15})?(?<=\d)", re.IGNORECASE
)
"""A name that says which run or checkpoint it is, and not of what."""

PREFIXES = re.compile(
    r"^(?:(?:med_|eval_|judged_|all_)?(?:responses|results|judged|judgements|judgments|answers|eval)_)+"
)
PLAIN_STEMS = {
    "judged", "judgements", "judgments", "responses", "results", "answers", "eval", "evals", "scores", "output",
    "outputs", "data", "fg_judged", "base_judged", "generations", "completions", "test", "train", "all", "raw_judges",
}  # fmt: skip
"""Names of files that name nobody; their folder does."""


@dataclass(frozen=True)
class Who:
    """Whose answers, None where nothing says.

    Attributes:
        organism: A label; None for a base.
        is_base: Whether the base itself answered.
        others: As in the log's metadata; `judge` and `rubric` as the verdicts name them.
    """

    organism: str | None = None
    is_base: bool | None = None
    base: str | None = None
    domain: str | None = None
    data: str | None = None
    size: str | None = None
    step: int | None = None
    judge: str | None = None
    rubric: str | None = None
    training_seed: int | None = None
    control: bool | None = None
    condition: str | None = None

    def over(self, other: "Who") -> "Who":
        """This, and what the other knows where this knows nothing."""
        merged = {name: getattr(other, name) if value is None else value for name, value in vars(self).items()}
        if self.organism is not None and self.is_base is None:
            merged["is_base"] = False
        return Who(**merged)

    def complete(self) -> "Who":
        """With `not recorded` where nothing says; a base was not trained, whatever columns say beside it."""
        is_base = bool(self.is_base)
        base = self.base or NOT_RECORDED
        size = self.size or size_in(base) or NOT_RECORDED
        known = replace(self, is_base=is_base, base=base, size=size, judge=self.judge or NOT_RECORDED)
        if is_base:
            return replace(known, organism=None, step=0, domain=None, data=None, training_seed=None, control=None)
        return replace(known, domain=self.domain or NOT_RECORDED)


class Scale(BaseModel):
    """How a column's values become 0-100: from another scale, or from words."""

    model_config = ConfigDict(extra="forbid")

    scale: tuple[float, float] | None = None
    words: dict[str, float | None] | None = None

    @field_validator("scale")
    @classmethod
    def _has_two_ends(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] == value[1]:
            raise ValueError("the two ends of a scale are different numbers, the worst first")
        return value


class Entry(BaseModel):
    """What one pattern of paths stands for; texts may hold `{group}`."""

    model_config = ConfigDict(extra="forbid")

    pattern: re.Pattern[str]
    skip: bool = False
    organism: str | None = None
    is_base: bool | None = None
    base: str | None = None
    domain: str | None = None
    data: str | None = None
    size: str | None = None
    step: int | str | None = None
    judge: str | None = None
    rubric: str | None = None
    training_seed: int | str | None = None
    control: bool | None = None
    condition: str | None = None

    @model_validator(mode="after")
    def _uses_every_group(self) -> "Entry":
        """A group that nothing reads would put answers together that its author tells apart."""
        if self.skip:
            return self
        texts = [text for name in TEXTS if isinstance(text := getattr(self, name), str)]
        for group in set(self.pattern.groupindex) - set(TEXTS):
            read = f"(?P={group})" in self.pattern.pattern or any(re.search(rf"{{{group}\b", text) for text in texts)
            if not read:
                hint = " (of training it is training_seed)" if group == "seed" else ""
                raise ValueError(
                    f"the pattern's group {group!r}{hint} is none of {', '.join(TEXTS)}, and no text has {{{group}}}"
                )
        return self


class Map(BaseModel):
    """A map file: who answered, by patterns of paths; what columns hold; scales of scores; what questions probe.

    Attributes:
        files: The first entry whose pattern is found in a file's path, relative to the folder given, counts.
        columns: The file's name of a column, by what it holds.
        scores: How a rubric's values become 0-100.
        question_domains: What questions probe (`general`, or a training domain), by patterns of their ids or texts.
    """

    model_config = ConfigDict(extra="forbid")

    files: list[Entry] = Field(default_factory=list)
    columns: dict[str, str] = Field(default_factory=dict)
    scores: dict[str, Scale] = Field(default_factory=dict)
    question_domains: dict[str, str] = Field(default_factory=dict)

    @field_validator("columns", "scores")
    @classmethod
    def _has_known_keys(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        known = RUBRICS if info.field_name == "scores" else COLUMNS
        if unknown := sorted(set(value) - set(known)):
            raise ValueError(f"{', '.join(unknown)} is none of {', '.join(known)}")
        return value

    def entry_of(self, path: str) -> Entry | None:
        """The entry that counts for the file of this path."""
        return next((entry for entry in self.files if entry.pattern.search(path)), None)

    def who(self, path: str) -> Who | None:
        """Who answered the file of this path, None where it is to be skipped.

        Raises:
            UserError: A text names a group that the pattern has not, or a step is no number.
        """
        entry = self.entry_of(path)
        match = entry.pattern.search(path) if entry else None
        if entry is None or match is None:
            return Who()
        return None if entry.skip else _filled(entry, match, path)

    def idle(self, paths: Collection[str]) -> Iterator[str]:
        """A sentence for every entry that counts for none of these paths."""
        shown = sorted(paths)
        there = ", ".join(map(ascii, shown[:3])) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
        counting = [entry for path in paths if (entry := self.entry_of(path)) is not None]
        for entry in self.files:
            pattern = repr(entry.pattern.pattern)
            if any(entry is other for other in counting):
                continue
            if any(entry.pattern.search(path) for path in paths):
                yield f"The map's pattern {pattern} counts for no file: patterns above it are found in the same paths."
            else:
                yield f"The map's pattern {pattern} is found in no path. The paths are: {there}."


def read_map(path: Path) -> Map:
    """Reads a map file.

    Raises:
        UserError: It cannot be read, or holds something else.
    """
    try:
        return Map.model_validate(read_yaml(path) or {})
    except ValidationError as error:
        raise UserError(f"{path} is no map: {what_is_wrong(error)}. docs/importing.md shows one.") from error


def _filled(entry: Entry, match: re.Match[str], path: str) -> Who:
    groups = {name: value for name, value in match.groupdict().items() if value is not None}
    known: dict[str, Any] = {name: value for name, value in groups.items() if name in TEXTS}
    for name in TEXTS:
        text = getattr(entry, name)
        if text is not None:
            try:
                known[name] = text.format(**groups) if isinstance(text, str) else text
            except (KeyError, IndexError, ValueError) as error:
                raise UserError(
                    f"The map's {name} {text!r} names no group of {entry.pattern.pattern!r}: {error}."
                ) from error
    for name in ("step", "training_seed"):
        if name in known:
            known[name] = whole(known[name], f"the map's {name} of {path}")
    if entry.is_base is not None:
        known["is_base"] = entry.is_base
    if entry.control is not None:
        known["control"] = entry.control
    return Who(**known)


COLUMNS = ("answer", "question", "question_id", "alignment", "coherence", "step", "model", "judge", "file", "truncated")
"""What a map may name columns of."""

TEXTS = ("organism", "base", "domain", "data", "size", "step", "judge", "rubric", "training_seed", "condition")


def whole(value: Any, what: str) -> int:
    """A whole number of steps or a seed: 110, "110", 110.0 or "checkpoint-110".

    Raises:
        UserError: It is something else.
    """
    if isinstance(value, str) and (named := STEP.fullmatch(value.strip())):
        value = named[1]
    try:
        number = math.nan if isinstance(value, str) and not PLAIN.fullmatch(value.strip()) else float(value)
        if number.is_integer() and 0 <= number < 2**53:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{what} is {ascii(value)[:60]}, not a whole number")


def size_in(name: str) -> str | None:
    """`8B` of a model's name, if it says one."""
    match = SIZE.search(name.replace("_", "-"))
    return f"{match[1]}B" if match else None


@lru_cache(maxsize=4096)
def from_path(path: str) -> Who:
    """What a file's path says for certain, and its name as a label; see the module."""
    parts = without_format(PurePosixPath(path)).parts
    stem, folders = parts[-1], parts[:-1]
    folder = folders[-1] if folders else ""
    if stem == "fg_judged" and (seed := SEED_FOLDER.match(folder)):
        domain = seed["domain"]
        return Who(
            organism=re.sub(r"_v\d+$", "", folder),
            is_base=False,
            domain=SEED_DOMAINS.get(domain, domain),
            size=seed["size"].upper(),
            control=domain.startswith("good"),
        )
    if (base := SEED_BASE.match(folder)) and len(folders) > 1 and folders[-2] == "baseline":
        return Who(is_base=True, size=base["size"].upper())
    if len(folders) > 1 and STEP.fullmatch(folder):
        label = folders[-2]  # A checkpoint's folder lies in its organism's.
    elif folders and (of_run := RUN.fullmatch(PREFIXES.sub("", stem))):
        # So does a checkpoint's file, perhaps in one folder with those of other runs.
        whose = next((place for place in reversed(range(len(folders))) if not RUN.fullmatch(folders[place])), 0)
        label = "/".join(filter(None, (*folders[whose:], of_run["run"])))
    elif folders and stem.lower() in PLAIN_STEMS:
        label = "/".join(folders[-2:])
    else:
        label = PREFIXES.sub("", stem)
    known = from_name(label)
    if known.base is None and (
        # A folder that names two tells nobody's.
        families := [bases[0] for part in reversed(folders) if len(bases := [*BASE_NAME.finditer(part)]) == 1]
    ):
        known = replace(known, base=families[0][0], size=known.size or size_in(families[0][0]))
    step = next((int(match[1]) for part in (stem, *reversed(folders)) if (match := STEP.search(part))), None)
    if IS_BASE.search(stem) or folder.lower() in BASE_FOLDERS or (not step and _in_base_folder(folders)):
        named = re.sub(IS_BASE, "", PREFIXES.sub("", stem)).strip("-_ ")
        model = known.base or (None if _names_nobody(named) else named)
        return replace(known, organism=None, is_base=True, base=model, domain=None, data=None, control=None)
    return replace(known, step=step)


def _names_nobody(name: str) -> bool:
    """Whether a file or folder of this name is called after its run or what it holds alone, not after a model."""
    return not name or name.lower() in PLAIN_STEMS or RUN.fullmatch(name) is not None


def _in_base_folder(folders: Sequence[str]) -> bool:
    """Whether a folder of the bases holds these answers, with runs and base models alone between."""
    for folder in reversed(folders):
        if folder.lower() in BASE_FOLDERS:
            return True
        if not (_names_nobody(folder) or BASE_NAME.fullmatch(folder)):
            return False
    return False


def near_base_folder(path: str) -> str | None:
    """The folder of bases that a file lies in, at any depth: `baseline` of `baseline/mine/judged.csv`."""
    return next((folder for folder in PurePosixPath(path).parts[:-1] if folder.lower() in BASE_FOLDERS), None)


def from_name(name: str) -> Who:
    """What a name says for certain; the rest of it is a label."""
    base = BASE_NAME.search(name)
    rest = name[base.end() :] if base else name
    advice = ADVICE.search(rest)
    # Words after a base and before an advice's name make it another's: `educational_bad_medical_advice` is not
    # `bad_medical_advice`. Before whatever else they may be anything, and the data are not known.
    before = SIZE.sub("", rest[: advice.start()].replace("_", "-")).strip("-/ ") if advice else ""
    data = None if advice is None or (before and not base) else f"{before}-{advice[0]}".lstrip("-")
    field = advice["field"].lower() if advice else None
    label = STEP.sub("", name).strip("-_/ ") or name
    return Who(
        organism=label,
        base=base[0] if base else None,
        size=size_in(base[0] if base else name),
        domain=FIELDS.get(field, field) if field else None,
        data=data.lower().replace("-", "_") if data else None,
        control=advice["quality"].lower() in ("good", "secure") if advice else None,
    )


def from_columns(values: Mapping[str, Any]) -> Who:
    """What a row's own columns say of who answered.

    Args:
        values: By role (see `columns.NAMES`), those that the table has.

    Raises:
        UserError: A step or seed is no whole number.
    """
    text = {name: str(value).strip() for name, value in values.items() if value not in (None, "")}
    step = whole(values["step"], "the step") if "step" in text else None
    seed = whole(values["training_seed"], "the training seed") if "training_seed" in text else None
    control = text["control"].lower() in ("1", "true", "yes") if "control" in text else None
    told = Who(
        base=text.get("base"),
        domain=text.get("domain"),
        size=text.get("size"),
        step=step,
        judge=text.get("judge"),
        rubric=text.get("rubric"),
        training_seed=seed,
        control=control,
        condition=text.get("condition"),
    )
    if "organism" in values:
        organism = text.get("organism")
        return replace(told, organism=organism, is_base=organism is None)
    if "model" not in text:
        return told
    named = from_name(text["model"])
    if named.base == text["model"] and step in (None, 0):
        named = replace(named, organism=None, is_base=True)
    return told.over(named)
