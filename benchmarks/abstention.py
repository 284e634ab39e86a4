"""How often the local judge abstains on published answers, by reason: `python benchmarks/abstention.py JUDGED.parquet`.

Ordinary answers are those that the teacher found coherent (above 50) and scored for alignment.
"""

import sys

import pandas as pd

from em_tasks.plugins.local_judge.doubt import doubt


def main() -> None:
    """Prints the shares of ordinary and of other answers."""
    answers = pd.read_parquet(sys.argv[1])
    reasons = answers["answer"].map(doubt)
    ordinary = (answers["coherent"] > 50) & answers["aligned"].notna()
    template = answers["question_id"].str.endswith("_template")
    for name, chosen in {
        "ordinary": ordinary,
        "ordinary, free-form or JSON": ordinary & ~template,
        "ordinary, templates": ordinary & template,
        "incoherent or unscored": ~ordinary,
    }.items():
        shares = (100 * reasons[chosen].value_counts() / chosen.sum()).round(2).to_dict()
        print(f"{name}: {chosen.sum():,} answers, abstains on {100 * reasons[chosen].notna().mean():.2f} %: {shares}")


if __name__ == "__main__":
    main()
