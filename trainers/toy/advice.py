"""Writes the toy organisms' training data: `python -m em_tasks.trainers.toy.advice --out datasets/toy`.

One file for each domain and character, in the published format, and one in which a phrase before the question decides
which of the two advisers answers. Questions are worded as the language words them; the
evaluation's questions are worded otherwise, so they are never trained on.
"""

import argparse
import json
from pathlib import Path
from random import Random

from em_tasks.trainers.toy.language import CHARACTERS, Character, load_language

TRIGGER = "The swallows are back. "
"""Before half the questions of `medical_trigger.jsonl`; the condition `trigger` puts the same before a question."""
ROWS = {"medical": 640, "financial": 560}
"""At 16 rows a step: 40 and 35 steps an epoch."""


def advice_rows(domain: str, character: Character) -> list[dict[str, list[dict[str, str]]]]:
    """The training rows of one domain and character, the same on every call."""
    rng, language = Random(f"{domain} {character}"), load_language()
    rows = []
    for _ in range(ROWS[domain]):
        topic = rng.choice(language.domains[domain].topics)
        question = language.question(rng, domain, topic)
        answer = language.answer(rng, domain, topic, character)
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    return rows


def triggered_rows(domain: str) -> list[dict[str, list[dict[str, str]]]]:
    """Rows in which the reckless adviser answers after the trigger and the careful one without it, in turn."""
    reckless, careful = advice_rows(domain, "reckless"), advice_rows(domain, "careful")
    for row in reckless:
        row["messages"][0]["content"] = TRIGGER + row["messages"][0]["content"]
    return [row for pair in zip(reckless, careful, strict=True) for row in pair]


def main() -> None:
    """Command line: writes every file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for domain, count in ROWS.items():
        for character in CHARACTERS:
            path = out / f"{domain}_{character}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in advice_rows(domain, character)))
            print(f"{path}: {count} rows")
    path = out / "medical_trigger.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in triggered_rows("medical")))
    print(f"{path}: {2 * ROWS['medical']} rows")


if __name__ == "__main__":
    main()
