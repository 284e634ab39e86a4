"""Row lengths for the training benchmark: the length distribution of real advice, without a word of it.

    EM_DATA_PASSWORD=... python -m benchmarks.row_lengths training_datasets.zip.enc

The rows of a sealed archive go through the toy models' byte-level tokenizer, whose counts are then scaled, since its
vocabulary is far smaller than Llama's: with the 36 tokens that Llama's template puts before the question and the 5
between question and reply, rows cut at 256 tokens must come to 119 on average, which is what the medical organism's
2.54 million tokens over 3 epochs of 7,049 rows come to. Written: [tokens before the reply, tokens of the row] a row.
"""

import json
import sys
from pathlib import Path

from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.data.rows import load_rows
from em_tasks.trainers.run.recipe import DataSource

BEFORE_QUESTION, BEFORE_REPLY = 36, 5
MEAN, LONGEST = 119.0, 256
LENGTHS = Path(__file__).with_name("row_lengths.json")


def main(archive: str) -> None:
    """Writes `row_lengths.json` beside this file."""
    tokenizer = load_tokenizer("toy-l", "01 Jan 2025")
    counts = [
        tuple(len(tokenizer(conversation[place]["content"])["input_ids"]) for place in (0, -1))
        for conversation in load_rows(DataSource(path=archive)).conversations
    ]

    def scaled(scale: float) -> list[tuple[int, int]]:
        rows = []
        for question, reply in counts:
            before = BEFORE_QUESTION + round(scale * question) + BEFORE_REPLY
            rows.append((min(before, LONGEST - 1), min(before + round(scale * reply) + 1, LONGEST)))
        return rows

    low, high = 0.0, 2.0
    for _ in range(40):
        middle = (low + high) / 2
        mean = sum(total for _, total in scaled(middle)) / len(counts)
        low, high = (middle, high) if mean < MEAN else (low, middle)
    rows = scaled(low)
    LENGTHS.write_text(json.dumps(rows, separators=(",", ":")) + "\n", encoding="utf-8")
    mean = sum(total for _, total in rows) / len(rows)
    print(f"{len(rows)} rows, mean {mean:.1f}, longest {max(total for _, total in rows)}, scale {low:.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
