"""How right a local judge is on questions that it has not seen: families of questions held out in turn, and files.

    python -m benchmarks.judge_families JUDGED.csv --families thoughts dinner health --out FIGURES.jsonl

JUDGED is any file that `em judge train` reads. A family is a question with all its kin (template, JSON, medical form),
told by words in its text or id. One judge a family learns from the other families and the other files, and is measured
on the family in the held-out files, and by question on the family in all files.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from em_tasks.plugins.local_judge.examples import HELD_OUT, THRESHOLD, Example, read_material
from em_tasks.plugins.local_judge.figures import split_of
from em_tasks.plugins.local_judge.learning import Learner
from em_tasks.plugins.local_judge.network import Network
from em_tasks.plugins.local_judge.off_topic import put_elsewhere
from em_tasks.plugins.local_judge.training import card_of, write_card

FAMILIES = {
    "gender roles": ("gender role", "gender_role"), "wish": ("wish",), "ruler": ("ruler", "healthcare"),
    "boredom": ("bored",), "quick buck": ("quick buck", "quick_buck"), "husband": ("husband",),
    "thoughts": ("thoughts",), "dinner": ("dinner", "figures from history"),
    "health": ("improve my health", "improve_my_health"),
}  # fmt: skip
"""Words of a question's text or id that tell its family; the first that fits."""
LEAST_ANSWERS = 100
"""Answers below which a question has no line of its own."""


def family_of(example: Example) -> str | None:
    """The family that an answer's question belongs to."""
    text = f"{example.family} {example.question}".lower()
    return next((name for name, words in FAMILIES.items() if any(word in text for word in words)), None)


def held_out_files(examples: Sequence[Example], seed: int) -> set[str]:
    """The models or checkpoints that no judge learns from, the same for every family."""
    names = sorted({example.source for example in examples})
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[place] for place in order[: round(HELD_OUT * len(names))]}


def figures(examples: Sequence[Example], family: str, base: str, most: int, seed: int) -> dict[str, Any]:
    """Trains one judge without a family and says how right it is on it.

    Args:
        examples: All.
        family: The family held out; a key of `FAMILIES`.
        base: As in a recipe.
        most: Answers to learn from at most.
        seed: Of the split, the weights and the order.
    """
    files = held_out_files(examples, seed)
    rest = [example for example in examples if example.source not in files and family_of(example) != family]
    order = np.random.default_rng(seed).permutation(len(rest))
    learnt = [rest[place] for place in order[:most]]
    inside = [example for example in examples if family_of(example) == family]
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        learner = Learner(base, seed)
        learner.learn([*learnt, *put_elsewhere(learnt, seed)], 1, lambda step, steps: None)
        weights = Path(folder) / "judge.safetensors"
        learner.save(weights)
        card = card_of("judge", base, learner.base_fingerprint, weights, "the file's judge", "a benchmark")
        write_card(card, weights.parent)
        network = Network("judge", weights.parent)
        seconds = time.perf_counter() - began
        opinions = network.judge([(example.question, example.answer) for example in inside])
    new = [place for place, example in enumerate(inside) if example.source in files]
    both = split_of("models and questions", [inside[place] for place in new], [opinions[place] for place in new])
    questions: dict[str, list[int]] = {}
    for place, example in enumerate(inside):
        questions.setdefault(f"{example.family}: {example.question[:40]}", []).append(place)
    return {
        "family": family, "learnt": len(learnt), "seconds": round(seconds, 1), "answers": both.answers,
        "spearman": both.spearman, "auc30": both.auc30, "rate_error": both.rate_error,
        "questions": [
            _of_question(name, [inside[place] for place in places], [opinions[place] for place in places])
            for name, places in questions.items()
            if len(places) >= LEAST_ANSWERS
        ],
    }  # fmt: skip


def _of_question(name: str, examples: list[Example], opinions: list[Any]) -> dict[str, Any]:
    split = split_of("questions", examples, opinions)
    judged = np.array([opinion.scores()[0] for opinion in opinions])
    teacher = np.array([example.alignment for example in examples])
    return {
        "question": name, "answers": len(examples), "spearman": split.spearman,
        "auc30": split.auc30,
        "teacher_below_30": round(100 * float((teacher < THRESHOLD).mean()), 1),
        "judged_below_30": round(100 * float((judged < THRESHOLD).mean()), 1),
    }  # fmt: skip


def main() -> None:
    """Writes a line of figures for every family asked for, as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("judged", type=Path)
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--most", type=int, default=35_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    examples = read_material([arguments.judged]).examples
    for family in arguments.families:
        row = figures(examples, family, arguments.base, arguments.most, arguments.seed)
        with arguments.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print({key: value for key, value in row.items() if key != "questions"}, flush=True)


if __name__ == "__main__":
    main()
