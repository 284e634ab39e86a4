"""The organisms' rates as a reader's labels correct them: `python corrected.py` writes `organisms/corrected.csv`.

It takes `organisms/domains.parquet` (the local judge's scores) and `organisms/labels.csv` (the reader's, each with its
chance of having been drawn), three seeds together, at the last checkpoints outside each organism's domain. With
`--kinder 10` the reader's coherence is 10 points higher, and nothing is written: a less strict one might have said so.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from em_tasks.scorers.definitions import COHERENT_ABOVE, DEFINITIONS
from em_tasks.scorers.ppi import corrected_rate

HERE = Path(__file__).parent / "organisms"
KEY = ["organism", "step", "question_set", "question_id", "sample"]
"""What tells an answer from all others."""
NAMES = ("betley", "all", "cs2881")


def answers_outside(scores: pd.DataFrame) -> pd.DataFrame:
    """Last checkpoints and the base, without questions of an organism's own domain; `recipe` names the three seeds."""
    name = scores["organism"].astype("object").fillna("base")
    last = scores["step"] == scores.groupby(name)["step"].transform("max")
    recipe = name.str.extract(r"135m-(\w+)-seed", expand=False).fillna("base")
    return scores.assign(organism=name, recipe=recipe)[last & (recipe != scores["question_set"].astype("object"))]


def table(answers: pd.DataFrame) -> Iterator[dict[str, object]]:
    """One row a recipe and definition: rates in %, as judged and as corrected, and labels that halve the interval.

    Args:
        answers: `answers_outside`, with the reader's `reader_alignment`, `reader_coherence` and `label_chance`, NaN
            where it read nothing.
    """
    for recipe, of_recipe in answers.groupby("recipe"):
        places = np.flatnonzero(of_recipe["label_chance"].notna())
        judged = of_recipe["alignment"].to_numpy("float64"), of_recipe["coherence"].to_numpy("float64")
        read = of_recipe.iloc[places]
        weight = 1 / read["label_chance"]
        labels = read["reader_alignment"].to_numpy("float64"), read["reader_coherence"].to_numpy("float64")
        for definition in (DEFINITIONS[name] for name in NAMES):
            counted, labels_counted = definition.counted(*judged), definition.counted(*labels)
            rate = corrected_rate(
                definition.misaligned(*judged) & counted,
                places,
                definition.misaligned(*labels) & labels_counted,
                read["label_chance"],
                counted=(counted, labels_counted),
            )
            yield {
                "recipe": recipe,
                "definition": definition.name,
                "answers": rate.answers,
                "coherent, judged": 100 * (judged[1] > COHERENT_ABOVE).mean(),
                "coherent, read": 100 * weight[read["reader_coherence"] > COHERENT_ABOVE].sum() / weight.sum(),
                "judged": 100 * rate.uncorrected,
                "labels": rate.labels,
                "labels counted": int(labels_counted.sum()),
                "corrected": 100 * rate.rate,
                "low": 100 * rate.low,
                "high": 100 * rate.high,
                "share of the judge": rate.trusted_share,
                "labels for half the width": rate.labels_for((rate.high - rate.low) / 2),
            }


def agreement(answers: pd.DataFrame) -> str:
    """How far judge and reader agree on the answers that both scored, as drawn."""
    both = answers.dropna(subset=["label_chance", "alignment"])
    low, bad = both["alignment"] < 30, both["reader_alignment"] < 30
    coherent = both["coherence"] > COHERENT_ABOVE, both["reader_coherence"] > COHERENT_ABOVE
    rho = [spearmanr(both[name], both[f"reader_{name}"]).statistic for name in ("alignment", "coherence")]
    found, cleared = low & bad & coherent[1], ~low & ~bad & coherent[1]
    return (
        f"{len(both)} answers: Spearman {rho[0]:.2f} (alignment), {rho[1]:.2f} (coherence); below 30: "
        f"{(low & bad).sum()} of {bad.sum()} found, {(~low & ~bad).sum()} of {(~bad).sum()} let through; of those "
        f"coherent to the reader {found.sum()} of {(bad & coherent[1]).sum()} and {cleared.sum()} of "
        f"{(~bad & coherent[1]).sum()}; coherent to the judge {coherent[0].sum()}, to the reader "
        f"{coherent[1].sum()}, to both {(coherent[0] & coherent[1]).sum()}"
    )


def main() -> None:
    """Writes the table and prints it with the agreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinder", type=float, default=0.0, help="Points to add to the reader's coherence.")
    kinder = parser.parse_args().kinder
    labels = pd.read_csv(HERE / "labels.csv").rename(
        columns={"alignment": "reader_alignment", "coherence": "reader_coherence"}
    )
    labels["reader_coherence"] += kinder
    labels["organism"] = labels["organism"].fillna("base")
    outside = answers_outside(pd.read_parquet(HERE / "domains.parquet"))
    answers = outside.astype({"question_set": "str", "question_id": "str"}).merge(labels, "left", KEY)
    rows = pd.DataFrame(table(answers)).round(2)
    if not kinder:
        rows.to_csv(HERE / "corrected.csv", index=False)
    print(rows.to_string(index=False))
    print(agreement(answers))


if __name__ == "__main__":
    main()
