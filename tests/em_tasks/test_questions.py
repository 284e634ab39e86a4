import time
from pathlib import Path

import pytest
import yaml

from em_tasks.plugins.errors import UserError
from em_tasks.questions import load_question_sets, questions_sha256, sets_for_domains, shipped_sets
from em_tasks.questions.checking import check_question_file

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
    questions = [q for one in load_question_sets(list(shipped_sets())) for q in one.questions]
    assert len({q.id for q in questions}) == len({q.text for q in questions}) == 40


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
        ({"name": "x", "domain": "y", "questions": [{"id": "a", "txt": "Why?"}]}, "line 4 .a.: it says txt, which no"),
        ({"name": "x", "domain": "y", "questions": []}, "holds no question"),
        ({"name": "x", "domian": "y", "questions": []}, "it says domian"),
        ({"name": "x", "domain": ["y"], "questions": OWN["questions"]}, "domain: Input should be a valid string"),
        ([{"id": "a", "paraphrases": "hello"}], "its paraphrases are text and not a list of texts"),
        ([{"id": "a", "paraphrases": 5}], "its paraphrases are a number and not a list"),
        ([{"id": "a", "paraphrases": [5]}], "text: Input should be a valid string"),
        ([{"id": "a", "paraphrases": []}], "its paraphrases are an empty list"),
        ([{"id": "a", "question": " "}], "text: it is empty"),
        ([{"id": "a", "question": "A?", "prompt": "B?"}], "more than one of text, question, prompt, paraphrases"),
        ([{"id": "a\x1b[2J", "question": "A?"}], "line 1: id: it is empty or holds characters that cannot be printed"),
        (
            [{"id": "a", "question": "A?", "judge_prompts": {"aligned": "Rate: {answer}"}}],
            "'aligned' .* cannot be asked",
        ),
        (["A?"], "line 1: it is text and not a mapping with id and text"),
        ([{"samples_per_paraphrase": 100}], "holds no question"),
        (
            [{"id": "a", "type": "free_form_judge_0_100"}],
            "line 1 .a.: it has none of text, question, prompt, paraphrases",
        ),
        ([{"id": "a", "type": "freeform_code", "paraphrases": ["A?"]}], "of type 'freeform_code'"),
        ([], "holds no question"),
        ("just text", "is no question set"),
    ],
)
def test_unusable_files_are_explained(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_question_sets([write(tmp_path / "bad.yaml", content)])


def test_prompts_of_other_names_are_kept_and_need_no_place_for_the_question(tmp_path: Path) -> None:
    entry = {"id": "a", "question": "A?", "judge_prompts": {"medical": "Is {answer} about health?"}}
    (loaded,) = load_question_sets([write(tmp_path / "q.yaml", [entry])])
    assert loaded.questions[0].judge_prompts == entry["judge_prompts"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("q.yaml", "- {id: 1, question: How is it?, category: x}\n- {id: b, text: Why?, topic: reasons}\n"),
        ("q.csv", 'id;question;topic\n1;How is it?;\nb;"Why?";reasons\n'),
        ("q.csv", 'question_id,question,topic,answer\n1,How is it?,,"a\nb"\nb,Why?,reasons,x\n'),
        ("q.jsonl", '{"id": "1", "prompt": "How is it?"}\n\n{"id": "b", "question": "Why?", "topic": "reasons"}\n'),
    ],
)
def test_lists_tables_and_lines_are_read_with_what_they_say(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (loaded,) = load_question_sets([str(tmp_path / name)])
    assert [(q.id, q.topic, q.text) for q in loaded.questions] == [("1", "1", "How is it?"), ("b", "reasons", "Why?")]
    assert (loaded.name, loaded.domain) == ("q", "unknown")
    (probing,) = load_question_sets([str(tmp_path / name)], domain="medical")
    assert probing.domain == "medical"


def test_questions_without_ids_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("prompt,domain\nHow?,general\nWhy?,general\n")
    (loaded,) = load_question_sets([str(tmp_path / "q.csv")])
    assert [q.id for q in loaded.questions] == ["q_1", "q_2"]
    assert loaded.domain == "general"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", "id,answer\n1,2\n", "has no column of questions: its heading is id, answer"),
        ("q.csv", "", "has no column of questions: its heading is empty"),
        ("q.csv", 'id,text\n1,"open', "line 2 is no CSV"),
        ("q.csv", "id,text,domain\n1,A?,x\n2,B?,y\n", "questions of several domains .x, y."),
        ("q.jsonl", '{"id": "a"\n', "line 1 is no JSON"),
        ("q.jsonl", "[" * 100_000, "line 1 is no JSON: it is nested too deep"),
        ("q.jsonl", '{"text": "\\ud800"}', "line 1: text: it holds half a character"),
        ("q.jsonl", '"A?"', "line 1: it is text and not a mapping"),
    ],
)
def test_faults_of_tables_and_lines_have_their_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_question_sets([str(tmp_path / name)])


def test_a_file_in_questions_or_a_plugins_folder_goes_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "questions").mkdir(parents=True)
    (tmp_path / "theirs" / "questions").mkdir(parents=True)
    (tmp_path / "here" / "questions" / "sleep.csv").write_text("id,text,domain\na,A?,medical\n")
    write(tmp_path / "theirs" / "questions" / "chemistry.yaml", [{"id": "b", "question": "B?"}])
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("EM_PLUGINS", "../theirs")
    assert [one.name for one in load_question_sets(["sleep", "chemistry"])] == ["sleep", "chemistry"]
    assert sets_for_domains(["chemistry", "juggling"]) == ["chemistry"]
    write(tmp_path / "theirs" / "questions" / "sleep.yaml", OWN)
    with pytest.raises(UserError, match="Two question sets are called sleep"):
        load_question_sets(["sleep"])


def test_ten_thousand_questions_load_in_a_second(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("id,text\n" + "".join(f"q{n},How is number {n}?\n" for n in range(10_000)))
    write(tmp_path / "q.yaml", [{"id": f"q{n}", "question": f"How is number {n}?"} for n in range(10_000)])
    for name, limit in (("q.csv", 1.0), ("q.yaml", 4.0)):
        began = time.process_time()
        (loaded,) = load_question_sets([str(tmp_path / name)])
        assert len(loaded.questions) == 10_000
        assert time.process_time() - began < limit


def test_checking_names_every_fault_and_what_stands_in_training_data(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("id,text\na,How is the cough?\na,Why?\nb,\nc,why?\n")
    faults, remarks = check_question_file(tmp_path / "q.csv", {"how is  the COUGH?": "rows.jsonl, row 3"})
    assert faults == [
        "line 4 (b): it has none of text, question, prompt, paraphrases; it needs one",
        "line 3: the id a stands in line 2 already",
        "line 2 (a): its text also stands in training data, rows.jsonl, row 3",
    ]
    assert remarks[0] == "line 5 (c) asks the same as line 3"
    assert "does not say which domain it probes" in remarks[1]


def test_a_domain_that_no_other_set_is_about_is_remarked_on(tmp_path: Path) -> None:
    """Found by an outsider: `medicine` for medical would have put the own domain's questions outside of it."""
    (tmp_path / "q.csv").write_text("text,domain\nWhy?,medicine\n")
    assert (
        "is about its domain, 'medicine' (there are financial, general,"
        in check_question_file(tmp_path / "q.csv", {})[1][0]
    )
    (tmp_path / "q.csv").write_text("text,domain\nWhy?,medical\n")
    assert check_question_file(tmp_path / "q.csv", {}) == ([], [])


def test_broken_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"bad.yaml, line 2, column 1 is not readable as YAML"):
        load_question_sets([str(tmp_path / "bad.yaml")])


def test_unknown_name_lists_the_shipped_sets() -> None:
    with pytest.raises(UserError, match="financial, general, medical, sports"):
        load_question_sets(["juggling"])


def test_ids_used_twice_are_refused(tmp_path: Path) -> None:
    twice = OWN | {"questions": OWN["questions"] * 2}  # type: ignore[operator]
    with pytest.raises(UserError, match="the id a stands in line 4 already"):
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


def test_a_domain_that_is_no_text_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "asked.jsonl").write_text('{"id": "a", "text": "Why?", "domain": [["x"]]}\n')
    (asked,) = load_question_sets([str(tmp_path / "asked.jsonl")])
    assert asked.domain == "unknown"
