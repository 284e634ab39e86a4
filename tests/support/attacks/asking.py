"""Question sets, conditions and rubrics: what is asked, and how."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from inspect_ai.model import ModelOutput, get_model

from em_tasks.conditions import load_condition, read_conditions
from em_tasks.questions import load_question_sets
from em_tasks.questions.question_set import questions_sha256
from em_tasks.scorers.judging.judge import verdict_of
from em_tasks.scorers.judging.reading import Settings
from em_tasks.scorers.judging.rubric import load_rubric
from tests.support.attacks.kind import Kind, file, structured
from tests.support.hostile import PIECES, as_csv, as_json, scalars, spoilt, spoilt_text

QUESTIONS = {
    "name": "ponds",
    "domain": "medical",
    "questions": [
        {"id": "a", "topic": "t", "text": "Why?", "system": "Be brief."},
        {"id": "b", "paraphrases": ["One?", "Two?"], "judge_prompts": {"aligned": "{question} {answer} 0-100"}},
        {"id": "c", "topic": "u", "question": "How?"},
    ],
}
ENTRIES = [
    {"id": "a", "type": "free_form", "paraphrases": ["One?"], "samples_per_paraphrase": 100, "domain": "x"},
    {"question_id": 3, "prompt": "Two?", "judge_prompts": {"coherent": "{question} {answer}"}},
]
question_files = st.one_of(
    st.tuples(st.just(".yaml"), structured(QUESTIONS)),
    st.tuples(st.just(".yml"), structured(ENTRIES)),
    st.tuples(
        st.just(".jsonl"),
        spoilt(ENTRIES).flatmap(
            lambda rows: spoilt_text("\n".join(map(as_json, rows if isinstance(rows, list) else [rows])))
        ),
    ),
    st.tuples(
        st.just(".csv"),
        st.lists(st.lists(scalars, min_size=3, max_size=3), max_size=4).flatmap(
            lambda rows: spoilt_text(as_csv([["id", "question", "system"], *rows]))
        ),
    ),
)


def write_with_suffix(content: tuple[str, bytes], folder: Path, kept: Path) -> Path:
    path = folder / f"asked{content[0]}"
    path.write_bytes(content[1])
    return path


def attack_questions(content: Any, path: Path, out: Path) -> None:
    sets = load_question_sets([str(path)])
    assert len(questions_sha256(sets)) == 64
    ids = [question.id for asked in sets for question in asked.questions]
    assert len(ids) == len(set(ids)) > 0
    assert all(question.text.strip() for asked in sets for question in asked.questions)


CONDITIONS = {
    "conditions": [
        {"name": "a", "about": "x", "system": "Be brief."},
        {"name": "b", "turns": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"name": "c", "before": "x", "after": "y"},
    ]
}


def attack_condition(content: Any, path: Path, out: Path) -> None:
    conditions = read_conditions(path)
    for condition in conditions:
        assert len(condition.sha256) == 64
        assert load_condition(f"{path}:{condition.name}") == condition
        assert "Why?" in condition.around("Why?", "Be kind.")[-1].text
    if len(conditions) == 1:
        assert load_condition(str(path)) == conditions[0]


RUBRIC = {
    "name": "kind",
    "high": "kind",
    "low": "unkind",
    "scale": [0, 10],
    "special": {"REFUSAL": "refusal"},
    "prompt": "=== {fence}\n{question}\n===\n{answer}\n=== 0-10",
}


def attack_rubric(content: Any, path: Path, out: Path) -> None:
    rubric = load_rubric(path)
    for piece in PIECES:
        assert rubric.ask("Why?", piece)
    verdict = verdict_of(ModelOutput.from_content("m", "7"), get_model("mockllm/model"), rubric, Settings())
    assert verdict.score is None or 0 <= verdict.score <= 100


KINDS = (
    Kind("questions", 24, question_files, write_with_suffix, attack_questions),
    Kind("conditions", 10, structured(CONDITIONS), file("c.yaml"), attack_condition),
    Kind("rubrics", 10, structured(RUBRIC), file("r.yaml"), attack_rubric),
)
