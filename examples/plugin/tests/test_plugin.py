"""What the package enters can be found and used."""

from importlib.metadata import entry_points
from types import SimpleNamespace

import pandas as pd
import pytest

import em_tasks_example

ANSWERS = pd.DataFrame({"organism": ["one", None], "step": [10, 0], "answer": ["Two words.", "Just three words."]})


@pytest.mark.parametrize("kind", ["questions", "conditions", "rubrics", "tables", "figures"])
def test_everything_is_entered(kind: str) -> None:
    assert any(point.value.startswith("em_tasks_example:") for point in entry_points(group=f"em_tasks.{kind}"))


def test_files_are_where_they_are_said_to_be() -> None:
    assert all(path.is_file() for path in (em_tasks_example.QUESTIONS, em_tasks_example.CONDITIONS, em_tasks_example.RUBRICS))


def test_the_table_counts_words() -> None:
    table = em_tasks_example.words(SimpleNamespace(answers=ANSWERS))
    assert sorted(table["words an answer"]) == [2.0, 3.0]


def test_the_figure_is_drawn() -> None:
    assert em_tasks_example.draw_words(SimpleNamespace(answers=ANSWERS)).axes
