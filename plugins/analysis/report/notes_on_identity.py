"""Things that carry one name and are not one: bases, questions and judges whose hashes differ between logs.

A name is what rates are grouped by, so another build of a base under the old name would be compared as if nothing had
changed. Prompts of the judge and sampling settings are watched likewise. Two organisms of one name never come here:
reading the logs refuses them (`answers/identity.py`).
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from em_tasks.plugins.analysis.answers.logs import Evaluation


def what_differs(evaluations: Sequence[Evaluation]) -> list[str]:
    """A sentence for each base, kind of hash, judge or setting that differs where it should be one."""
    trained = [evaluation for evaluation in evaluations if not evaluation.subject.endswith(" (base)")]
    return [
        *_hashes(
            "The base {name} was evaluated with different fingerprints ({values}): its weights, precision or template "
            "changed. Rates over these logs are of different models.",
            ((evaluation.base, evaluation.fingerprints.get("base_fingerprint")) for evaluation in evaluations),
        ),
        *_hashes(
            "The checkpoints of {name} were trained under different recipes, one after the other ({values}): the run "
            "was trained on by a longer one.",
            (
                (evaluation.subject.rpartition("@")[0], evaluation.fingerprints.get("recipe_sha256"))
                for evaluation in trained
            ),
        ),
        *_hashes(
            "The checkpoints of {name} were asked different versions of the questions ({values}); their rates may "
            "not be comparable.",
            (
                (evaluation.subject.rpartition("@")[0], evaluation.fingerprints.get("questions_sha256"))
                for evaluation in trained
            ),
        ),
        *_hashes(
            "The rubric {name} stands for different prompts or scales ({values}) under one name; its scores are not "
            "comparable.",
            ((name, sha256) for evaluation in evaluations for name, (*_, sha256) in evaluation.rubrics.items()),
        ),
        *_prompts(evaluations),
        *_sampling(evaluations),
    ]


def _different(pairs: Iterable[tuple[str, Hashable]]) -> dict[str, list[Hashable]]:
    """Values by name, of the names that have more than one; missing values say nothing."""
    values: dict[str, dict[Hashable, None]] = defaultdict(dict)
    for name, value in pairs:
        if value:
            values[name][value] = None
    return {name: list(distinct) for name, distinct in values.items() if len(distinct) > 1}


def _hashes(sentence: str, pairs: Iterable[tuple[str, str | None]]) -> list[str]:
    return [
        sentence.format(name=name, values=", ".join(str(value)[:12] for value in values))
        for name, values in _different(pairs).items()
    ]


def _prompts(evaluations: Sequence[Evaluation]) -> list[str]:
    pairs = [
        (judge, frozenset(sha256 for other, sha256 in evaluation.judge_rubrics if other == judge))
        for evaluation in evaluations
        for judge in sorted({judge for judge, _ in evaluation.judge_rubrics})
    ]
    return [
        f"The judge {judge} was asked under {len(values)} different sets of prompts; scores under different prompts "
        "are not comparable."
        for judge, values in _different(pairs).items()
    ]


def _sampling(evaluations: Sequence[Evaluation]) -> list[str]:
    settings: dict[str, set[str]] = defaultdict(set)
    for evaluation in evaluations:
        for key, value in evaluation.config.items():
            if key in ("temperature", "top_p", "max_tokens", "top_k"):
                settings[key].add(f"{value:g}" if isinstance(value, int | float) else str(value))
    mixed = [f"{key} {' and '.join(sorted(values))}" for key, values in settings.items() if len(values) > 1]
    return [f"Answers were sampled under different settings ({'; '.join(mixed)})."] if mixed else []
