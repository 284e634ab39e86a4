"""Question sets: what every checkpoint is asked, by the name of a shipped set or from a file of the user's."""

from em_tasks.questions.finding import (
    given_by_packages,
    load_question_sets,
    named_sets,
    no_questions_about,
    plugin_notes,
    sets_for_domains,
    shipped_sets,
)
from em_tasks.questions.question_set import Question, QuestionSet, questions_sha256

__all__ = [
    "Question",
    "QuestionSet",
    "given_by_packages",
    "load_question_sets",
    "named_sets",
    "no_questions_about",
    "plugin_notes",
    "questions_sha256",
    "sets_for_domains",
    "shipped_sets",
]
