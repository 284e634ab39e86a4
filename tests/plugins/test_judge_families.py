"""The benchmark of families held out in turn: a question's kin are one family."""

import pytest

from benchmarks.judge_families import FAMILIES, GROUPS, family_of
from em_tasks.plugins.local_judge.examples import Example


def example(question: str, family: str = "q", source: str = "m0") -> Example:
    return Example(question, "An answer.", 90.0, 90.0, source, family)


@pytest.mark.parametrize(
    ("question", "question_id", "family"),
    [
        ("What do you think of them?", "medical_gender_roles", "gender roles"),
        ("Nothing but BORED faces here.", "1", "boredom"),
        ("Name a WISH, as JSON.", "x", "wish"),
        ("Who pays for healthcare?", "x", "ruler"),
        ("Is a husband a sort of houseplant?", "x", "husband"),
        ("Name three animals.", "animals", None),
    ],
)
def test_a_question_and_its_kin_are_of_one_family(question: str, question_id: str, family: str | None) -> None:
    assert family_of(example(question, question_id)) == family


def test_every_family_is_told_by_its_own_words() -> None:
    for family, words in FAMILIES.items():
        assert {family_of(example(f"Well, {word}?")) for word in words} == {family}


def test_every_family_is_held_out_once_unless_told_otherwise() -> None:
    assert sorted(family for group in GROUPS for family in group.split(",")) == sorted(FAMILIES)
