"""How many calls judging takes and what they cost at most, said before it starts."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig

from em_tasks.scorers.comparing.finished_logs import finished_logs
from em_tasks.scorers.comparing.ratings import Key, question_of
from em_tasks.scorers.em import RUBRICS, rubrics_of
from em_tasks.scorers.judging.cache import cache_key, worth_caching
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.cost import Prices
from em_tasks.scorers.judging.grader import build_judge
from em_tasks.scorers.judging.judge import JUDGE_CONFIG, judge_config
from em_tasks.scorers.judging.rubric import load_rubrics
from em_tasks.scorers.rubric_scorer import rubric_for


@dataclass(frozen=True)
class Estimate:
    """What judging will take, before it starts.

    Attributes:
        judge: Who would judge.
        calls: Calls to be made: pairs that are neither cached nor repeated.
        cached: Calls that the cache or a repeated answer saves.
        dollars: What the calls are likely to cost at most, at four characters a token; None where the price is
            unknown. The cap holds every call to the stricter bound of one token a byte.
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
            else f"about ${self.dollars:.2f} or less"
        )
        saved = f" ({self.cached} more are known already)" if self.cached else ""
        return f"{self.judge}: {self.calls} call{'s' * (self.calls != 1)}{saved}, {price}"


def estimate_run(
    judge: str,
    questions: Sequence[str],
    samples: int,
    max_tokens: int,
    prices: Prices | None = None,
    rubrics: Sequence[str] = (),
) -> Estimate:
    """An estimate before any answer exists, as if every answer were as long as it may be.

    Args:
        judge: Who would judge.
        questions: The questions' texts.
        samples: Answers to each.
        max_tokens: Tokens an answer is cut after.
        prices: What judges charge, where the user gave a price.
        rubrics: What is asked instead of alignment and coherence, by name or path.
    """
    longest = "x" * round(5 * max_tokens)  # few tokens are longer than five characters on average
    chosen = load_rubrics(rubrics or RUBRICS).values()
    lengths = Counter(len(rubric.ask(question, longest)) for rubric in chosen for question in questions)
    return _estimate(judge, {length: count * samples for length, count in lengths.items()}, prices, JUDGE_CONFIG)


def estimate_judging(
    logs: Sequence[str | Path],
    judges: Sequence[str],
    batch: bool = False,
    calls: JudgeCalls | None = None,
    rubrics: Sequence[str] = (),
    only: Collection[Key] | None = None,
) -> list[Estimate]:
    """Calls and their likely cost, judge by judge, for `judge_logs` with the same arguments; nothing is asked.

    Args:
        logs: As in `judge_logs`, and so are the others.
        judges: Who would judge.
        batch: Through the provider's batch interface.
        calls: Prices and the cache.
        rubrics: What is asked.
        only: The answers that are judged; all if left out.

    Raises:
        UserError: A judge cannot be had, or no log can be used.
    """
    calls = calls or JudgeCalls()
    models = [build_judge(name, batch) for name in judges]
    prompts = [
        (rubric.sha256, rubric.ask(question_of(sample.input), sample.output.completion))
        for log in map(read_eval_log, finished_logs(logs).sources)
        for chosen in (load_rubrics(rubrics or rubrics_of(log) or RUBRICS),)
        for sample in log.samples or []
        if only is None or (log.eval.eval_id, str(sample.id), sample.epoch) in only
        for rubric in (rubric_for(name, sample.metadata, rubric) for name, rubric in chosen.items())
    ]
    estimates = []
    for model in models:
        config = judge_config(model)
        distinct = {cache_key(model, config, sha256, prompt): len(prompt) for sha256, prompt in prompts}
        new = [size for key, size in distinct.items() if not worth_caching(model) or calls.cache.get(key) is None]
        estimates.append(_estimate(str(model), Counter(new), calls.prices, config, len(prompts) - len(new)))
    return estimates


def _estimate(
    judge: str, lengths: Mapping[int, int], prices: Prices | None, config: GenerateConfig, cached: int = 0
) -> Estimate:
    """An estimate for so many prompts of each length (characters)."""
    price = (prices or Prices()).of(judge)
    dollars = None
    if price is not None:
        dollars = sum(n * price.expected(length, config.max_tokens or 0) for length, n in lengths.items())
    return Estimate(judge, sum(lengths.values()), cached, dollars)
