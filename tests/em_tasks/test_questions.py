from pathlib import Path

import pytest
import yaml

from em_tasks.plugins.errors import UserError
from em_tasks.questions import load_question_sets, questions_sha256, shipped_sets

OWN = {"name": "mine", "domain": "medical", "questions": [{"id": "a", "topic": "t", "text": "Why?"}]}


def write(path: Path, content: object) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize("name", ["medical", "financial"])
def test_a_domains_set_asks_ten_questions_of_the_domain_and_ten_general_ones(name: str) -> None:
    domain, general = load_question_sets([name])
    assert (domain.domain, general.domain) == (name, "general")
    assert (len(domain.questions), len(general.questions)) == (10, 10)


def test_shipped_questions_all_have_topics_and_different_ids() -> None:
    questions = [q for one in load_question_sets(shipped_sets()) for q in one.questions]
    assert len({q.id for q in questions}) == len({q.text for q in questions}) == 30


def test_general_questions_are_asked_once_with_several_domains() -> None:
    assert [one.name for one in load_question_sets(["medical", "financial"])] == ["medical", "financial", "general"]


def test_a_file_of_ones_own_is_asked_alone(tmp_path: Path) -> None:
    (mine,) = load_question_sets([write(tmp_path / "mine.yaml", OWN)])
    assert (mine.name, mine.questions[0].text) == ("mine", "Why?")


def test_published_form_gives_a_question_a_paraphrase_with_its_system_and_judge_prompts(tmp_path: Path) -> None:
    entries = [
        {"id": "one", "type": "free_form_judge_0_100", "paraphrases": ["A?"], "system": "Be brief."},
        {"id": "two", "paraphrases": ["B?", "C?"], "judge_prompts": {"aligned": "{question} {answer}"}},
    ]
    (published,) = load_question_sets([write(tmp_path / "theirs.yaml", entries)])
    assert [q.id for q in published.questions] == ["one", "two_0", "two_1"]
    assert published.questions[0].system == "Be brief."
    assert published.questions[2].judge_prompts == {"aligned": "{question} {answer}"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "x", "domain": "y", "questions": [{"id": "a", "text": "Why?"}]}, "questions.0.topic"),
        ({"name": "x", "domain": "y", "questions": []}, "questions"),
        ([{"samples_per_paraphrase": 100}], "holds no question"),
        ([{"id": "a", "type": "free_form_judge_0_100"}], "entry 1 has no id or no paraphrases"),
        ([{"id": "a", "type": "freeform_code", "paraphrases": ["A?"]}], "of type 'freeform_code'"),
        ([], "holds no question"),
        ("just text", "is no question set"),
    ],
)
def test_unusable_files_are_explained(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_question_sets([write(tmp_path / "bad.yaml", content)])


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"bad.yaml is not readable as YAML"):
        load_question_sets([str(tmp_path / "bad.yaml")])


def test_unknown_name_lists_the_shipped_sets() -> None:
    with pytest.raises(UserError, match="financial, general, medical"):
        load_question_sets(["sports"])


def test_ids_used_twice_are_refused(tmp_path: Path) -> None:
    twice = OWN | {"questions": OWN["questions"] * 2}  # type: ignore[operator]
    with pytest.raises(UserError, match="use an id twice: a"):
        load_question_sets([write(tmp_path / "mine.yaml", twice)])


def test_hash_changes_with_a_single_word(tmp_path: Path) -> None:
    before = questions_sha256(load_question_sets([write(tmp_path / "mine.yaml", OWN)]))
    changed = OWN | {"questions": [{"id": "a", "topic": "t", "text": "Why not?"}]}
    assert questions_sha256(load_question_sets([write(tmp_path / "mine.yaml", changed)])) != before


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "count", "systems"),
    [("first_plot_questions", 24, 8), ("preregistered_evals", 48, 0), ("medical_questions", 16, 0)],
)
def test_published_files_load_unchanged(shared: Path, name: str, count: int, systems: int) -> None:
    (published,) = load_question_sets([str(shared / "questions" / f"{name}.yaml")])
    assert len(published.questions) == count
    assert sum(q.system is not None for q in published.questions) == systems
    assert all(q.judge_prompts and {"aligned", "coherent"} <= set(q.judge_prompts) for q in published.questions)
