"""Question sets: what every checkpoint is asked, by the name of a shipped set or from a file of the user's."""

from em_tasks.questions.finding import load_question_sets, named_sets, sets_for_domains, shipped_sets
from em_tasks.questions.question_set import Question, QuestionSet, questions_sha256

__all__ = [
    "Question",
    "QuestionSet",
    "load_question_sets",
    "named_sets",
    "questions_sha256",
    "sets_for_domains",
    "shipped_sets",
]
