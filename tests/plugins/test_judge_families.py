"""The benchmark of families held out in turn: a question's kin are one family, and no judge sees a held-out file."""

import pytest

from benchmarks.judge_families import FAMILIES, family_of, held_out_files
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


def test_the_same_share_of_files_is_held_out_whatever_the_order_of_answers() -> None:
    every = [example("Why?", source=f"m{place % 20}") for place in range(60)]
    files = held_out_files(every, seed=0)
    assert len(files) == 3
    assert files == held_out_files(every[::-1], seed=0)
    assert files != held_out_files(every, seed=1)
