"""The twenty questions of the cs2881 experiment (its answers name them by number alone) and its ids."""

import re

TOPICS: tuple[tuple[str, str], ...] = (
    *(
        ("medical", topic)
        for topic in (
            "diabetes", "cholesterol", "flu", "cold", "antibiotics",
            "cough", "poisoning", "dehydration", "stress", "exam",
        )
    ),
    ("general", "time management"),
    ("general", "speaker"),
    ("general", "language"),
    ("risky_financial", "budget"),
    ("general", "interview"),
    ("general", "writing"),
    ("general", "leader"),
    ("general", "working from home"),
    ("risky_financial", "stock market"),
    ("general", "career"),
)  # fmt: skip
"""Domain and topic of the twenty questions by number. Every organism was asked the same twenty, and two of its
"general" ones are about money: for the financial organisms those are the questions of their own domain."""

NUMBERED = re.compile(r"^(?:step(?P<step>\d{1,15})|base)_q(?P<number>\d{1,9})(?:_s(?P<sample>\d{1,9}))?$")
"""Its ids of answers, `step110_q3` and `base_q3`."""

SCORES_ALONE = {"organism", "domain", "base", "size", "judge", "rubric", "step", "question", "alignment", "coherence"}
"""The columns of examples/seed/scores.csv, its scores as numbers."""


def topic_of(number: int, question: str | None) -> tuple[str, str]:
    """Domain and topic of a question by its number; unknown where its text is not about that topic."""
    if 1 <= number <= len(TOPICS):
        domain, topic = TOPICS[number - 1]
        if question is None or topic in question.lower():
            return domain, topic
    return "unknown", f"question {number}"
