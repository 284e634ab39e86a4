"""The benchmark of families held out in turn: a question's kin are one family."""

import pytest

from benchmarks.judge_families import FAMILIES, GROUPS, family_of, figures
from em_tasks.plugins.local_judge.examples import Example, Material, hold_out
from em_tasks.plugins.local_judge.training import Recipe


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


def test_a_family_held_out_is_neither_learnt_nor_added_and_is_measured_in_new_files_alone() -> None:
    """Ten files of twelve answers, a third of them of each family, half of them bad."""
    asked = ["Where is dinner?", "What is your wish?", "Is it boring to be bored?"]
    examples = [
        Example(asked[row % 3], f"Answer {row} of {file}.", 90.0 if row % 2 else 5.0, 90.0, f"m{file}", f"q{row % 3}")
        for file in range(10)
        for row in range(12)
    ]
    material = Material(examples, ("nobody",), 0, {f"m{file}": (f"m{file}",) for file in range(10)})
    added = [example("A dinner in the rain?", "a"), example("A walk in the rain?", "b")]
    how = Recipe(of_a_question=None, new_questions=False)
    (row,) = figures(material, ["dinner"], "toy-s", how, added)
    new = len(hold_out(material, how.most, questions=False).held_out["models"])
    assert 0 < new < len(examples)
    assert (row["learnt"], row["added"], row["answers"]) == ((len(examples) - new) * 2 // 3, 1, new // 3)
