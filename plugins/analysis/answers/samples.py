"""One sample of a log, read from its JSON no further than the analysis needs, and the answers that it gives.

A sample is mostly events: msgspec skips what the types here do not name without making objects of it, which is ten
times as fast as reading everything.
"""

import json
import math
from typing import Any, TypeVar

import msgspec

from em_tasks.plugins.log_contract import RUBRICS

T = TypeVar("T")


class Verdict(msgspec.Struct, gc=False):
    """What a judge said about one rubric, see "The log" in docs/architecture.md."""

    reason: Any = None
    text: Any = None
    judge: Any = None
    toy: Any = None
    rubric: Any = None
    rubric_sha256: Any = None


class ScoreMetadata(Verdict, gc=False):
    """A scorer's metadata: a verdict a rubric if it is `em`, one verdict if it is one of the two alone.

    Another task's scorer may have anything under these names, and no log is unreadable for that.
    """

    alignment: Verdict | list[Any] | str | float | bool | None = None
    coherence: Verdict | list[Any] | str | float | bool | None = None


class Score(msgspec.Struct):
    """A score of any scorer."""

    value: Any = None
    metadata: ScoreMetadata | None = None


class Message(msgspec.Struct):
    """A chat message: text, or a list of parts of which some are text."""

    content: str | list[dict[str, Any]] = ""

    def text(self) -> str:
        """Its text, parts joined by newlines."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part["text"] for part in self.content if part.get("type") == "text")


class Choice(msgspec.Struct):
    """One of a model's outputs; the first is the answer."""

    message: Message
    stop_reason: str = "unknown"


class Output(msgspec.Struct):
    """What the model gave."""

    choices: list[Choice] = []
    completion: str = ""


class Metadata(msgspec.Struct, gc=False):
    """What a sample says of its question."""

    question_set: str | None = None
    domain: str | None = None
    topic: str | None = None
    label_chance: Any = None


class Sample(msgspec.Struct):
    """The parts of Inspect's `EvalSample` that the analysis needs."""

    id: str | int
    epoch: int
    input: str | list[Message]
    output: Output = msgspec.field(default_factory=Output)
    scores: dict[str, Score] | None = None
    metadata: Metadata = msgspec.field(default_factory=Metadata)
    error: dict[str, Any] | None = None


class _Head(Sample, kw_only=True):
    """A sample up to its events: what the analysis needs must have come by then."""

    output: Output
    scores: dict[str, Score] | None
    metadata: Metadata


class _JsonLog(msgspec.Struct):
    samples: list[Sample] | None = None


_SAMPLE = msgspec.json.Decoder(Sample)
_HEAD = msgspec.json.Decoder(_Head)
_JSON_LOG = msgspec.json.Decoder(_JsonLog)

EVENTS = b',"events":['
NUMBERS_OF_SCORES = (b'alignment":', b'coherence":', b'value":')
"""Keys under which Inspect writes NaN, which is no JSON, for an unscored answer. Within a text JSON has a backslash
before the quotation mark, so these bytes and those of `EVENTS` are keys wherever they stand."""


def decode_sample(data: bytes, failed: bool = True) -> Sample:
    """Reads one sample.

    Args:
        data: Its JSON.
        failed: Whether it may have ended in an error. If not, it is not read beyond its events, most of it.

    Raises:
        UserError: It is no JSON, or no sample.
    """
    if not failed and (end := data.find(EVENTS)) >= 0:
        try:
            return _decode_scores(_HEAD, data[:end] + b"}")
        except msgspec.DecodeError:  # events of something within the sample, or an unknown order of its parts
            pass
    return _decode(_SAMPLE, data)


def decode_json_log(data: bytes) -> list[Sample]:
    """Reads the samples of a whole log in Inspect's JSON format.

    Raises:
        UserError: It is no JSON, or no log.
    """
    return _decode(_JSON_LOG, data).samples or []


def _decode(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return _decode_scores(decoder, data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # NaN or Infinity elsewhere, which Python reads and msgspec writes as null; or half a character, made a `?`.
        whole = json.dumps(json.loads(data), ensure_ascii=False).encode(errors="replace")
        return decoder.decode(msgspec.json.encode(json.loads(whole)))


def _decode_scores(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        for key in NUMBERS_OF_SCORES:
            data = data.replace(key + b"NaN", key + b"null")
        return decoder.decode(data)


Rubric = tuple[float, Verdict]
"""A score (NaN when unscored) and its verdict."""

NO_VERDICT = ScoreMetadata()


def judgements(sample: Sample) -> list[tuple[Rubric, Rubric]]:
    """Alignment and coherence as each judge gave them: `em` scores (also appended ones), or the two scorers alone."""
    scores = sample.scores or {}
    pairs = []
    for score in scores.values():
        value, verdicts = score.value, score.metadata or NO_VERDICT
        if isinstance(value, dict) and "alignment" in value and "coherence" in value:
            alignment = _number(value["alignment"]), _verdict(verdicts.alignment)
            pairs.append((alignment, (_number(value["coherence"]), _verdict(verdicts.coherence))))
    if not pairs and ("alignment" in scores or "coherence" in scores):
        pairs.append((_alone(scores.get("alignment")), _alone(scores.get("coherence"))))
    return pairs


def further_scores(sample: Sample) -> dict[str, float]:
    """Every other number that scorers gave the answer, by name, on its own scale; NaN where there is none.

    The further rubrics of an `em` score, and scores of other scorers that are one number (`topic`, imported columns).
    """
    further: dict[str, float] = {}
    for name, score in (sample.scores or {}).items():
        value = score.value
        if isinstance(value, dict) and "alignment" in value and "coherence" in value:
            further |= {str(key): _number(each) for key, each in value.items() if key not in RUBRICS}
        elif name not in RUBRICS and isinstance(value, int | float) and not isinstance(value, bool):
            further[name] = float(value)
    return further


def _verdict(metadata: object) -> Verdict:
    return metadata if isinstance(metadata, Verdict) else NO_VERDICT


def _alone(score: Score | None) -> Rubric:
    return (math.nan, NO_VERDICT) if score is None else (_number(score.value), score.metadata or NO_VERDICT)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def question_and_answer(sample: Sample) -> tuple[str, str, bool | None]:
    """The question's and the answer's text, and whether the answer was cut off (None where nobody knows)."""
    prompt = sample.input
    question = prompt if isinstance(prompt, str) else prompt[-1].text()
    choices = sample.output.choices
    if not choices:
        return question, sample.output.completion, None
    stop = choices[0].stop_reason
    answer = sample.output.completion or choices[0].message.text()
    return question, answer, None if stop == "unknown" else stop == "max_tokens"
