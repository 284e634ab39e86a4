"""A verdict: what one judge call said about one answer, with the raw output it was read from.

Verdicts travel in the metadata of scores, so their fields are the contract of docs/architecture.md. The raw output is
enough to read a verdict again under other settings, without asking the judge again.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from em_tasks.plugins.errors import UserError

Mode = Literal["logprobs", "text"]
Reason = Literal["refusal", "code", "no_number", "little_mass", "judge_failed"]
REASONS: tuple[Reason, ...] = ("refusal", "code", "no_number", "little_mass", "judge_failed")

TokenProbability = tuple[str, float]
"""A token's text and its probability (0-1)."""


@dataclass(frozen=True)
class Continuation:
    """What the judge might have written next once it had written `after` (for numbers of several tokens)."""

    after: str
    tokens: tuple[TokenProbability, ...]


@dataclass(frozen=True)
class Verdict:
    """One judge call's result.

    Attributes:
        score: 0-100, or None with a reason.
        reason: Why there is no score.
        mode: Whether the score comes from token probabilities or from the reply's text.
        mass: Probability on number tokens (0-1); None in text mode.
        tokens: The judge's first token's alternatives, most likely first; None without logprobs.
        digits: The alternatives of later tokens; None unless the judge writes numbers in several tokens.
        text: The judge's reply without its reasoning; for a failed call, the kind of error.
        judge: The judge model as its API named it.
        toy: Whether the judge was the toy judge.
        rubric: Name of the rubric that was asked.
        rubric_sha256: Its hash.
        scale: The rubric's lowest and highest number, needed to read the raw output again.
        special: The rubric's special replies, needed for the same.
    """

    score: float | None
    reason: str | None
    mode: Mode
    mass: float | None
    tokens: tuple[TokenProbability, ...] | None
    digits: tuple[Continuation, ...] | None
    text: str
    judge: str
    toy: bool
    rubric: str
    rubric_sha256: str
    scale: tuple[int, int] = (0, 100)
    special: dict[str, str] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The score as a number, NaN where there is none."""
        return float("nan") if self.score is None else self.score

    def to_dict(self) -> dict[str, Any]:
        """The verdict as it lies in a score's metadata (JSON types alone)."""
        plain = asdict(self)
        plain["scale"] = list(self.scale)
        if self.tokens is not None:
            plain["tokens"] = [list(pair) for pair in self.tokens]
        if self.digits is not None:
            plain["digits"] = [{"after": d.after, "tokens": [list(pair) for pair in d.tokens]} for d in self.digits]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> "Verdict":
        """The verdict back from a log.

        Raises:
            UserError: A field is missing: the log was not written by these scorers.
        """
        try:
            tokens, digits = plain["tokens"], plain["digits"]
            return cls(
                score=plain["score"],
                reason=plain["reason"],
                mode=plain["mode"],
                mass=plain["mass"],
                tokens=None if tokens is None else _pairs(tokens),
                digits=None
                if digits is None
                else tuple(Continuation(part["after"], _pairs(part["tokens"])) for part in digits),
                text=plain["text"],
                judge=plain["judge"],
                toy=plain["toy"],
                rubric=plain["rubric"],
                rubric_sha256=plain["rubric_sha256"],
                scale=(plain["scale"][0], plain["scale"][1]),
                special=dict(plain["special"]),
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"A score's metadata holds no complete verdict ({error} is missing or of the wrong kind): its judge's "
                "raw output is not there. Judge the log again with `em judge`."
            ) from error


def _pairs(raw: list[list[Any]]) -> tuple[TokenProbability, ...]:
    return tuple((str(token), float(probability)) for token, probability in raw)
