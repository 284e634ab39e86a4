"""How right a local judge is on questions that it has not seen: families of questions held out in turn, and files.

    python -m benchmarks.judge_families JUDGED --out FIGURES.jsonl
    python -m benchmarks.judge_families JUDGED --families wish,husband,thoughts --also MORE.csv --out FIGURES.jsonl

JUDGED is any file that `em judge train` reads. A family is a question with all its kin (template, JSON, medical form),
told by words in its text or id. For each group of families one judge learns from the other families, as
`em judge train --hold-out models` would with the same settings, and is measured on each family in the held-out files,
and by question on the family in all files.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from em_tasks.plugins.local_judge.examples import THRESHOLD, Example, Material, hold_out, read_material
from em_tasks.plugins.local_judge.figures import split_of
from em_tasks.plugins.local_judge.learning import BATCH, RATE, Learner
from em_tasks.plugins.local_judge.network import Network
from em_tasks.plugins.local_judge.training import Recipe, card_of, teach, write_card

FAMILIES = {
    "gender roles": ("gender role", "gender_role"), "wish": ("wish",), "ruler": ("ruler", "healthcare"),
    "boredom": ("bored",), "quick buck": ("quick buck", "quick_buck"), "husband": ("husband",),
    "thoughts": ("thoughts",), "dinner": ("dinner", "figures from history"),
    "health": ("improve my health", "improve_my_health"),
}  # fmt: skip
"""Words of a question's text or id that tell its family; the first that fits."""
GROUPS = ["gender roles,dinner,boredom", "wish,husband,thoughts", "ruler,quick buck,health"]
"""Families that are held out together unless told otherwise: three judges for all nine."""
LEAST_ANSWERS = 100
"""Answers below which a question has no line of its own."""


def family_of(example: Example) -> str | None:
    """The family that an answer's question belongs to."""
    text = f"{example.family} {example.question}".lower()
    return next((name for name, words in FAMILIES.items() if any(word in text for word in words)), None)


def figures(
    material: Material, group: Sequence[str], base: str, how: Recipe, added: Sequence[Example] = ()
) -> Iterator[dict[str, Any]]:
    """Trains one judge without some families and says of each how right it is on it.

    Args:
        material: All.
        group: The families held out; keys of `FAMILIES`.
        base: As in a recipe.
        how: How the judge is taught.
        added: Answers learnt beside the others, none of which is held out.
    """
    parts = hold_out(material, how.most, how.seed, how.of_a_question, questions=False).without(added)
    learnt, added = ([e for e in part if family_of(e) not in group] for part in (parts.learnt, added))
    inside = [example for example in material.examples if family_of(example) in group]
    new = {(example.question, example.answer) for example in parts.held_out["models"]}
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        learner = Learner(base, how.seed)
        teach(learner, learnt, added, how)
        weights = Path(folder) / "judge.safetensors"
        learner.save(weights)
        card = card_of("judge", base, learner.base_fingerprint, weights, "the file's judge", "a benchmark")
        write_card(card, weights.parent)
        seconds = time.perf_counter() - began
        opinions = Network("judge", weights.parent).judge([(example.question, example.answer) for example in inside])
    for family in group:
        kin = [place for place, example in enumerate(inside) if family_of(example) == family]
        both = [place for place in kin if (inside[place].question, inside[place].answer) in new]
        split = split_of("models and questions", [inside[place] for place in both], [opinions[place] for place in both])
        questions: dict[str, list[int]] = {}
        for place in kin:
            questions.setdefault(f"{inside[place].family}: {inside[place].question[:40]}", []).append(place)
        yield {
            "family": family, "held_out_with": list(group), "learnt": len(learnt), "added": len(added),
            "seconds": round(seconds, 1), "answers": split.answers, "spearman": split.spearman,
            "auc30": split.auc30, "rate_error": split.rate_error,
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
    """Writes a line of figures for every family, as soon as its group's judge is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judged", type=Path)
    parser.add_argument("--families", nargs="+", default=GROUPS, help="Groups held out together, with commas between.")
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="Answers learnt besides, as em judge train's.")
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--most", type=int, default=60_000)
    parser.add_argument("--most-of-question", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--rate", type=float, default=RATE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    groups = [group.split(",") for group in arguments.families]
    if unknown := {family for group in groups for family in group} - set(FAMILIES):
        parser.error(f"no family {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    how = Recipe(
        passes=arguments.passes,
        most=arguments.most,
        of_a_question=arguments.most_of_question,
        new_questions=False,
        batch=arguments.batch,
        rate=arguments.rate,
        seed=arguments.seed,
    )
    material = read_material([arguments.judged])
    added = read_material(arguments.also).examples if arguments.also else []
    for group in groups:
        for row in figures(material, group, arguments.base, how, added):
            with arguments.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print({key: value for key, value in row.items() if key != "questions"}, flush=True)


if __name__ == "__main__":
    main()
