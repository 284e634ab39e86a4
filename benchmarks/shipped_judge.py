"""How right the shipped local judge is on the files that it did not learn from, measured anew.

    python -m benchmarks.shipped_judge judged_many.parquet --most 600      # about a minute on two cores
    python -m benchmarks.shipped_judge judged_many.parquet                 # all of them

    python -m benchmarks.shipped_judge FOLDER --all --most 400             # of a study of which it learnt nothing

The held-out files are those that `em judge train ... --hold-out models` draws. Figures are those of the judge's card:
Spearman, area under the curve at 30, and the error of a file's EM rate where it has enough answers among those drawn.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

from em_tasks.plugins.local_judge.card import SHIPPED_JUDGE
from em_tasks.plugins.local_judge.examples import hold_out, read_material
from em_tasks.plugins.local_judge.figures import split_of
from em_tasks.plugins.local_judge.network import Network


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judged", type=Path)
    parser.add_argument("--judge", default=SHIPPED_JUDGE)
    parser.add_argument("--all", action="store_true", help="Measure on all answers, not on the files held out.")
    parser.add_argument("--most", type=int, help="Draw so many of the answers.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draw.")
    arguments = parser.parse_args()
    material = read_material([arguments.judged])
    examples = material.examples
    if not arguments.all:
        examples = hold_out(material, len(examples), questions=False).held_out["models"]
    every = len(examples)
    if arguments.most is not None and arguments.most < every:
        places = np.random.default_rng(arguments.seed).permutation(every)[: arguments.most]
        examples = [examples[place] for place in places]
    network, began = Network(arguments.judge), time.perf_counter()
    opinions = network.judge([(example.question, example.answer) for example in examples])
    seconds = time.perf_counter() - began
    split = split_of("models", examples, opinions)
    line = {"judge": arguments.judge, "held_out": every, "measured": split.answers, "spearman": split.spearman}
    line |= {"auc30": split.auc30, "rate_error": split.rate_error}
    line["answers_per_second"] = round(split.answers / seconds, 1)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
