"""How right the shipped local judge is on the files that it did not learn from, measured anew.

    python -m benchmarks.shipped_judge judged_many.parquet --most 600      # about a minute on two cores
    python -m benchmarks.shipped_judge judged_many.parquet                 # all of them

The judge was trained by a script outside this project; which files it held out is computed here as it was there.
Figures are those of its card: Spearman, area under the curve at 30, and the error of a file's EM rate where a file has
enough answers among those drawn.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from em_tasks.plugins.local_judge.examples import HELD_OUT, Example
from em_tasks.plugins.local_judge.figures import split_of
from em_tasks.plugins.local_judge.network import Network

JUDGE = "smollm2-gpt4o-2"


def study_of(file: str) -> str:
    """The first two folders of a file's path."""
    return "/".join(file.split("/")[:2])


def held_out_files(files: Sequence[str]) -> set[str]:
    """The files of every study that the judge did not learn from.

    Args:
        files: All files with a score of coherence, in any order.
    """
    by_study: dict[str, list[str]] = {}
    for file in sorted(files):
        by_study.setdefault(study_of(file), []).append(file)
    rng, held_out = random.Random(0), set[str]()
    for _, members in sorted(by_study.items()):
        rng.shuffle(members)
        held_out |= set(members[: max(1, round(HELD_OUT * len(members)))])
    return held_out


def read_held_out(judged: Path) -> list[Example]:
    """The answers of the held-out files that have both scores."""
    import pandas as pd

    table = pd.read_parquet(judged).dropna(subset=["coherent"])
    held_out = held_out_files(table["file"].unique().tolist())
    table = table[table["file"].isin(held_out)]
    columns = ["question", "answer", "aligned", "coherent", "file", "question_id"]
    return [Example(*row) for row in table.dropna(subset=["aligned"])[columns].itertuples(index=False)]


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judged", type=Path)
    parser.add_argument("--most", type=int, help="Draw so many of the answers.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draw.")
    arguments = parser.parse_args()
    examples = read_held_out(arguments.judged)
    every = len(examples)
    if arguments.most is not None and arguments.most < every:
        places = np.random.default_rng(arguments.seed).permutation(every)[: arguments.most]
        examples = [examples[place] for place in places]
    network, began = Network(JUDGE), time.perf_counter()
    opinions = network.judge([(example.question, example.answer) for example in examples])
    seconds = time.perf_counter() - began
    split = split_of("models", examples, opinions)
    line = {"judge": JUDGE, "held_out": every, "measured": split.answers, "spearman": split.spearman}
    line |= {"auc30": split.auc30, "rate_error": split.rate_error}
    line["answers_per_second"] = round(split.answers / seconds, 1)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
