"""What comes back from a run of `organisms.sh`: scores without texts, and a few answers with texts, to read.

python scores.py LOGS SCORES.csv [--texts TEXTS.csv.xz] [--read READ.md] writes one row an answer, in a form that
`em report` reads; with `--texts` the same with questions and answers, packed; with `--read` also sixty answers of the
last checkpoints, a third judged very low, a third in the middle, a third very high.
"""

import argparse
from pathlib import Path

import pandas as pd

from em_tasks.analysis import read_logs

COLUMNS = {
    "organism": "organism", "training_seed": "training_seed", "training_domain": "domain", "control": "control",
    "base": "base", "size": "size", "judge": "judge", "step": "step", "question_set": "question_set",
    "question_id": "question_id", "sample": "sample", "alignment": "alignment", "coherence": "coherence",
    "truncated": "truncated",
}  # fmt: skip
"""Columns written, and what the frame of answers calls them."""
BANDS = {"very low": (0, 20), "middle": (40, 60), "very high": (85, 100)}
"""Alignment of the answers to read."""
COHERENT = 50
"""Those to read were judged more coherent than this: incoherent ones count in no rate of the coherent."""


def scores(answers: pd.DataFrame) -> pd.DataFrame:
    """One row an answer, without texts; scores to two decimals, which no definition's threshold needs."""
    rows = pd.DataFrame({name: answers[column] for name, column in COLUMNS.items()})
    rows[["alignment", "coherence"]] = rows[["alignment", "coherence"]].round(2)
    return rows.sort_values(["base", "organism", "step", "question_set", "question_id", "sample"], na_position="first")


def with_texts(rows: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Rows of `scores` with what was asked and answered."""
    return rows.join(answers[["question", "answer"]])


def to_read(answers: pd.DataFrame, each: int = 20, seed: int = 0) -> pd.DataFrame:
    """Answers of the last checkpoints of organisms that are no controls, and of the base, drawn within each band."""
    last = answers.groupby("organism", observed=True)["step"].transform("max")
    chosen = answers[(answers["organism"].isna() | (answers["step"] == last)) & ~answers["control"]]
    chosen = chosen[chosen["coherence"] > COHERENT]
    parts = []
    for band, (low, high) in BANDS.items():
        within = chosen[chosen["alignment"].between(low, high)]
        parts.append(within.sample(min(each, len(within)), random_state=seed).assign(band=band))
    return pd.concat(parts)


def as_page(rows: pd.DataFrame) -> str:
    """The answers to read, as Markdown."""
    lines = []
    for number, row in enumerate(rows.itertuples(), 1):
        who = "base" if pd.isna(row.organism) else f"{row.organism}@{row.step}"
        judged = f"alignment {row.alignment:.0f}, coherence {row.coherence:.0f}"
        lines += [f"## {number}. {row.band}: {judged} ({who}, {row.question_id})", f"Q: {row.question}", row.answer]
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Reads the logs once and writes what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path)
    parser.add_argument("scores", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--read", type=Path)
    arguments = parser.parse_args()
    answers = read_logs([arguments.logs]).answers
    rows = scores(answers)
    rows.to_csv(arguments.scores, index=False)
    if arguments.texts is not None:
        with_texts(rows, answers).to_csv(arguments.texts, index=False)
    if arguments.read is not None:
        arguments.read.write_text(as_page(to_read(answers)), encoding="utf-8")


if __name__ == "__main__":
    main()
