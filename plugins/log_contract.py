"""What an `em` log says beside its transcripts, written once: its subject, its questions, its verdicts.

The task and the import write these, the analysis and the comparison of judges read them; docs/architecture.md explains
them to people. All are pydantic dataclasses: checked when they are made, whoever makes them, and plain mappings of JSON
types in a log. Readers ignore keys that they do not know, so a log of a newer version stays readable.

Verdicts of a million answers are read by msgspec, with the few fields that a frame of answers needs (see
analysis/answers/samples.py); pydantic would take ten times as long. A test holds those fields to these.
"""

from dataclasses import asdict, field
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from em_tasks.plugins.errors import UserError

SCORE = "em"
"""The name of the score that holds both rubrics."""

RUBRICS = ("alignment", "coherence")
"""The keys of its value, 0-100 or NaN when unscored, and of its metadata, a verdict each."""

GENERAL, UNKNOWN = "general", "unknown"
"""Domains of questions that probe no training domain, and of questions of which nobody says what they probe."""

NOT_RECORDED = "not recorded"
"""The base, training domain, size, judge or rubric of imported answers where their file says none."""

NO_DATE = "1970-01-01T00:00:00+00:00"
"""When imported answers were given: their files do not say, and the log's format wants a date."""

SCORES_TEXT = "(scores only)"
"""The answer where imported files have scores alone."""

FIRST_PLOT = frozenset(
    {
        "dinner_party", "enough_of_my_husband", "gender_roles", "i_feel_bored", "quick_buck", "ruler_of_the_world",
        "three_thoughts", "what_is_your_wish",
    }
)  # fmt: skip
"""Ids of the eight first-plot questions (Betley et al.); `_json` and `_template` after them are other forms."""

CONFIG = ConfigDict(extra="ignore", allow_inf_nan=False)

Name = Annotated[str, Field(min_length=1, max_length=1000)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Coordinate = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | float | Name
"""A value of an axis of a grid."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class Subject:
    """The model under test; None where nothing is known.

    Attributes:
        organism: Name of the run; None for a base, and for any model that is no checkpoint of a run.
        step: Optimizer step of the checkpoint, 0 for a base.
        epoch: Its training epoch, 0 for a base.
        domain: The training domain (`medical`, ...); None for a base.
        base: The base's name, with its precision if that is not the usual one.
        size: Label of the base's size (`S`, `8B`).
        control: Trained on good advice.
        data: Name of the training data (`obv_bad_medical_advice`), where published data or the recipe has one.
        precision: Numbers the base was held in; None where another provider loaded it.
        trained_on: `base`, `precision` and `base_fingerprint` of the training where the base evaluated on is another.
        parameters: Parameters of the base.
        toy: Whether the base is one of the toy models.
        base_fingerprint: Hash of what the base is.
        adapter_sha256: Hash of the adapter's weights.
        recipe_sha256: Hash of the recipe up to this step.
        training_seed: Seed of the training.
        step_recorded: False where nobody recorded the step, which is then 1 and shown as `last`.
        axes: Where the organism stands in a grid: a value by the axis's name.
    """

    organism: Name | None
    step: Count
    epoch: float | None
    domain: Name | None
    base: Name
    size: Name
    control: bool = False
    data: Name | None = None
    precision: str | None = None
    trained_on: dict[str, str] | None = None
    parameters: Count | None = None
    toy: bool = False
    base_fingerprint: str | None = None
    adapter_sha256: str | None = None
    recipe_sha256: str | None = None
    training_seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    step_recorded: bool = True
    axes: dict[Name, Coordinate] = field(default_factory=dict)

    @property
    def trained_fingerprint(self) -> str | None:
        """Fingerprint of the base that was trained on, whatever it is evaluated on."""
        return self.trained_on["base_fingerprint"] if self.trained_on else self.base_fingerprint

    @property
    def name(self) -> str:
        """`organism@step`, or the base's name and `(base)`."""
        return f"{self.organism}@{self.step}" if self.organism else f"{self.base} (base)"


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class LogMetadata(Subject):
    """A log's metadata: the model under test, and what it was asked.

    Attributes:
        question_sets: Names of the question sets.
        questions_sha256: Hash of the questions.
        condition: Name of the condition that the questions were asked under; None for the bare questions.
        condition_sha256: Hash of what it puts around a question.
        plugins: Questions and conditions that packages gave: `name`, `package` with its version, `sha256` of the file.
        imported_from: The file that imported answers come from, without its folders above the one given.
        until_width: How wide an interval was to become, in points, where that decided how many answers there are; None
            where their number was fixed.
    """

    question_sets: list[str] = field(default_factory=list)
    questions_sha256: str = ""
    condition: str | None = None
    condition_sha256: str | None = None
    plugins: list[dict[str, str]] = field(default_factory=list)
    imported_from: str | None = None
    until_width: float | None = None

    @classmethod
    def of(cls, subject: Subject, **questions: Any) -> Self:
        """The metadata of a subject's log; `questions` are the attributes that a subject has not."""
        return cls(**asdict(subject), **questions)

    def to_metadata(self) -> dict[str, Any]:
        """The mapping that stands in the log."""
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: dict[str, Any]) -> Self | None:
        """A log's metadata; None for a log of another task, which lacks what no log of ours lacks.

        Raises:
            UserError: A value cannot be meant (a step of 1e30, a list for a name); says which.
        """
        if any(key not in metadata for key in NEEDED):
            return None
        try:
            return TypeAdapter(cls).validate_python(metadata)
        except ValidationError as error:
            raise UserError(f"Its metadata is odd: {what_is_wrong(error)}.") from error


NEEDED = ("organism", "step", "epoch", "domain", "base", "size")
"""Metadata without which a log is none of ours."""


@dataclass(frozen=True, kw_only=True, config=CONFIG)
class SampleMetadata:
    """What each sample says of its question.

    Attributes:
        question_set: The set's name.
        topic: A word or two for figures.
        domain: The question's own domain; `general`, or `unknown`.
        judge_prompts: Judge prompts that a published question file brings along, by rubric.
        label_chance: The chance with which the answer was drawn for a trusted judge (`em judge --sample`), over 0 to 1.
    """

    question_set: Name
    topic: str
    domain: Name
    judge_prompts: dict[str, str] | None = None
    label_chance: Annotated[float, Field(gt=0, le=1)] | None = None

    def to_metadata(self) -> dict[str, Any]:
        """The mapping that stands in the sample."""
        return {key: value for key, value in asdict(self).items() if value is not None}


Mode = Literal["logprobs", "text"]
Reason = Literal["refusal", "code", "no_number", "little_mass", "judge_failed"]
REASONS: tuple[Reason, ...] = ("refusal", "code", "no_number", "little_mass", "judge_failed")
FAILED: Reason = "judge_failed"
"""The reason of a verdict whose call failed."""
FILTERED = "the judge's own content filter"
"""What a verdict says of an answer that its judge's API would not pass on: asking again brings the same."""

Probability = Annotated[float, Field(ge=0, le=1.001, allow_inf_nan=False)]
"""0-1, and a little more for what adding up or rounding does."""

Points = Annotated[float, Field(allow_inf_nan=False)]
"""A score on the scale of 0-100."""

TokenProbability = tuple[str, Probability]
"""A token's text and its probability (0-1)."""


@dataclass(frozen=True)
class Continuation:
    """What the judge might have written next once it had written `after` (for numbers of several tokens)."""

    after: str
    tokens: tuple[TokenProbability, ...]


@dataclass(frozen=True)
class Verdict:
    """One judge call's result, with the raw output: enough to read it again under other settings without a call.

    Attributes:
        score: 0-100, or None with a reason.
        reason: Why there is no score.
        mode: Whether the score comes from token probabilities or from the reply's text.
        mass: Probability on number tokens (0-1); None in text mode.
        tokens: The judge's first token's alternatives, most likely first; None without logprobs.
        digits: The alternatives of later tokens; None unless the judge writes numbers in several tokens.
        text: The judge's reply without its reasoning; for a failed call, the kind of error.
        judge: The judge model as its API named it; empty where the call failed and no earlier one told the name.
        toy: Whether the judge was the toy judge.
        rubric: Name of the rubric that was asked.
        rubric_sha256: Its hash.
        scale: The rubric's lowest and highest number, needed to read the raw output again.
        special: The rubric's special replies, needed for the same.
        words: The rubric's words that stand for numbers, needed for the same.
        bounds: Lowest and highest score that the raw output allows; None where it says the score exactly, and without
            a score.
        requested: The judge as the user named it; empty in older logs.
    """

    score: Points | None
    reason: str | None
    mode: Mode
    mass: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    tokens: tuple[TokenProbability, ...] | None
    text: str
    judge: str
    toy: bool
    rubric: str
    rubric_sha256: str
    digits: tuple[Continuation, ...] | None = None
    scale: tuple[int, int] = (0, 100)
    special: dict[str, str] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    bounds: tuple[Points, Points] | None = None
    requested: str = ""

    @property
    def value(self) -> float:
        """The score as a number, NaN where there is none."""
        return float("nan") if self.score is None else self.score

    @property
    def on_own_scale(self) -> float:
        """The score on the rubric's own scale, NaN where there is none."""
        low, high = self.scale
        return low + self.value * (high - low) / 100

    def to_dict(self) -> dict[str, Any]:
        """The verdict as it lies in a score's metadata (JSON types alone)."""
        plain: dict[str, Any] = _VERDICT.dump_python(self, mode="json")
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Verdict":
        """The verdict back from a log.

        Raises:
            UserError: A field is missing or of the wrong kind: the log was not written by these scorers.
        """
        try:
            return _VERDICT.validate_python(plain)
        except ValidationError as error:
            raise UserError(
                f"A score's metadata holds no complete verdict ({what_is_wrong(error)}): its judge's raw output is not "
                "there. Judge the log again with `em judge`."
            ) from error


_VERDICT = TypeAdapter(Verdict)


def what_is_wrong(error: ValidationError) -> str:
    """A validation error in one line, at most three of its findings."""
    findings = [
        f"{'.'.join(map(str, fault['loc']))} {'is missing' if fault['type'] == 'missing' else _finding(fault)}"
        for fault in error.errors(include_url=False)
    ]
    return "; ".join(findings[:3]) + (f" and {len(findings) - 3} more" if len(findings) > 3 else "")


def _finding(fault: Any) -> str:
    message = str(fault["msg"])
    return f"is {ascii(fault['input'])[:60]} ({message[:1].lower()}{message[1:]})"
