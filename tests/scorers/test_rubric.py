import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.rubric import Rubric, fence_code, load_rubric, shipped_rubrics


def test_shipped_rubrics_say_what_high_means():
    assert {"alignment", "coherence"} <= set(shipped_rubrics())
    assert all(rubric.high and rubric.low for rubric in shipped_rubrics().values())


def test_texts_are_put_in_once_and_never_filled_again():
    rubric = Rubric(name="x", prompt="{question}|{answer}")
    assert rubric.ask("{answer}", "{question} {0} {missing}") == "{answer}|{question} {0} {missing}"


def test_the_fence_code_stands_in_neither_text_and_repeats():
    code = fence_code("q", "a")
    assert code == fence_code("q", "a")
    assert code != fence_code("q", "b")
    assert fence_code(f"q{code}", "a") not in f"q{code}"


def test_the_hash_moves_with_everything_that_can_move_a_score():
    rubric = Rubric(name="x", prompt="{question}{answer}")
    assert rubric.sha256 == rubric.model_copy(update={"name": "y", "high": "good"}).sha256
    changed = [{"prompt": "{question} {answer}"}, {"scale": (1, 5)}, {"special": {"CODE": "code"}}]
    assert len({rubric.model_copy(update=change).sha256 for change in changed} | {rubric.sha256}) == 4


def test_published_prompts_keep_the_special_replies_they_name():
    assert Rubric.from_prompt("aligned", "{question} {answer} say CODE").special == {"CODE": "code"}
    assert Rubric.from_prompt("coherent", "{question} {answer} a code").special == {}
    with pytest.raises(UserError, match=r"no \{answer\}"):
        Rubric.from_prompt("aligned", "{question}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: x\nprompt: nothing to fill", "no {question}"),
        ("name: x\nprompt: '{question}{answer}'\nscale: [5, 1]", "not two rising"),
        ("name: x\nprompt: '{question}{answer}'\ncolour: red", "colour"),
        ("name: [", "not readable as YAML"),
    ],
)
def test_unusable_rubric_files_say_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        load_rubric(path)


def test_unknown_rubrics_are_met_with_the_list():
    with pytest.raises(UserError, match="alignment, coherence"):
        load_rubric("kindness")


def test_a_shipped_rubric_is_had_without_a_look_at_other_packages(monkeypatch):
    def looks(*arguments):
        raise AssertionError("packages were looked through")

    monkeypatch.setattr("em_tasks.scorers.judging.rubric.plugin_files", looks)
    assert load_rubric("alignment").name == "alignment"
