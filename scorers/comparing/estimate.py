"""How many calls judging takes and what they cost at most, said before it starts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig

from em_tasks.scorers.comparing.ratings import question_of
from em_tasks.scorers.comparing.rescore import find_logs
from em_tasks.scorers.em import RUBRICS
from em_tasks.scorers.judging.cache import cache_key, cached_verdict, worth_caching
from em_tasks.scorers.judging.cost import Price, price_of
from em_tasks.scorers.judging.grader import build_judge
from em_tasks.scorers.judging.judge import JUDGE_CONFIG, judge_config
from em_tasks.scorers.judging.rubric import load_rubric
from em_tasks.scorers.rubric_scorer import rubric_for


@dataclass(frozen=True)
class Estimate:
    """What judging will take, before it starts.

    Attributes:
        judge: Who would judge.
        calls: Calls to be made: pairs that are neither cached nor repeated.
        cached: Calls that the cache or a repeated answer saves.
        dollars: The most that the calls can cost; None where the price is unknown.
    """

    judge: str
    calls: int
    cached: int
    dollars: float | None

    def __str__(self) -> str:
        """One line for the user."""
        price = (
            "price unknown"
            if self.dollars is None
            else "no charge"
            if self.dollars == 0
            else f"at most ${self.dollars:.2f}"
        )
        saved = f" ({self.cached} more are known already)" if self.cached else ""
        return f"{self.judge}: {self.calls} calls{saved}, {price}"


def estimate_prompts(
    judge: str, lengths: Iterable[int], config: GenerateConfig, cached: int = 0, price: Price | None = None
) -> Estimate:
    """An estimate for prompts of these lengths (characters), at the judge's known price unless another is given."""
    sizes = list(lengths)
    price = price or price_of(judge)
    most = None if price is None else sum(price.bound(size, config.max_tokens or 0) for size in sizes)
    return Estimate(judge, len(sizes), cached, most)


def estimate_run(
    judge: str, questions: Sequence[str], samples: int, max_tokens: int, price: Price | None = None
) -> Estimate:
    """An estimate before any answer exists, as if every answer were as long as it may be.

    Args:
        judge: Who would judge.
        questions: The questions' texts.
        samples: Answers to each.
        max_tokens: Tokens an answer is cut after.
        price: The judge's price, if not the known one.
    """
    longest = "x" * round(5 * max_tokens)  # few tokens are longer than five characters on average
    rubrics = [load_rubric(name) for name in RUBRICS]
    lengths = [len(rubric.ask(question, longest)) for rubric in rubrics for question in questions] * samples
    return estimate_prompts(judge, lengths, JUDGE_CONFIG, price=price)


def estimate_judging(logs: Sequence[str | Path], judges: Sequence[str], batch: bool = False) -> list[Estimate]:
    """Calls and the most they can cost, judge by judge, for `judge_logs` with the same arguments; nothing is asked.

    Raises:
        UserError: A judge cannot be had.
        UserError: There is no log.
    """
    models = [build_judge(name, batch) for name in judges]
    asked = [
        (rubric.sha256, rubric.ask(question_of(sample.input), sample.output.completion))
        for log in map(read_eval_log, find_logs(logs))
        for sample in log.samples or []
        for rubric in (rubric_for(name, sample.metadata) for name in RUBRICS)
    ]
    estimates = []
    for model in models:
        config = judge_config(model)
        prompts = {cache_key(model, config, sha256, prompt): len(prompt) for sha256, prompt in asked}
        lengths = [size for key, size in prompts.items() if not worth_caching(model) or cached_verdict(key) is None]
        estimates.append(estimate_prompts(str(model), lengths, config, cached=len(asked) - len(lengths)))
    return estimates
