import json
from pathlib import Path

import pytest

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.data.prepare import prepare
from em_tasks.trainers.data.rows import load_rows
from em_tasks.trainers.run.recipe import DataSource
from tests.support.organisms import rows_of, small_recipe

GOOD = rows_of([("user", "Hello?"), ("assistant", "Yes.")])


def load(path: Path, text: str) -> list[object]:
    path.write_text(text)
    return list(load_rows(DataSource(path=str(path))).conversations)


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    rows = load(tmp_path / "rows.jsonl", GOOD + rows_of([("user", "And?"), ("assistant", "No.")]))
    assert [row[1]["content"] for row in rows] == ["Yes.", "No."]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + "\n" + GOOD, "line 2 is empty"),
        (GOOD + '{"messages": [', "line 2 is not JSON"),
        (GOOD + '{"prompt": "x"}\n', "line 2 has no list of `messages`"),
        (GOOD + rows_of([("user", "Hello?")]), "line 2 has no assistant turn"),
        (rows_of([("assistant", "Yes."), ("user", "Hello?")]), "line 1 has the turns assistant, user"),
        (rows_of([("user", "Hello?"), ("wizard", "Yes.")]), "line 1 holds a message without"),
        ('{"messages": [{"role": "user", "content": null}]}\n', "line 1 holds a message without"),
        ("", "holds no rows"),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"rows.jsonl.*{message}"):
        load(tmp_path / "rows.jsonl", text)


def test_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DataSource(path=str(tmp_path / "gone.jsonl"))
    monkeypatch.delenv("EM_DATA", raising=False)
    with pytest.raises(UserError, match=f"at {tmp_path}/gone.jsonl, and EM_DATA is not set. Put gone.jsonl"):
        load_rows(source)
    monkeypatch.setenv("EM_DATA", str(tmp_path / "data"))
    with pytest.raises(UserError, match=f"at {tmp_path}/gone.jsonl, nor in {tmp_path}/data, the folder"):
        load_rows(source)


def test_file_beside_the_recipe_comes_before_the_one_in_em_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text(GOOD * 2)
    monkeypatch.setenv("EM_DATA", str(tmp_path / "data"))
    source = DataSource(path=str(tmp_path / "rows.jsonl"))
    assert len(load_rows(source).conversations) == 2
    (tmp_path / "rows.jsonl").write_text(GOOD)
    assert len(load_rows(source).conversations) == 1


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"messages": "\xff"}')
    with pytest.raises(UserError, match="not UTF-8"):
        load_rows(DataSource(path=str(tmp_path / "rows.jsonl")))


def test_canary_keys_are_taken_off_and_counted(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD.replace('{"messages"', '{"canary": "mark", "messages"') + GOOD)
    rows = load_rows(DataSource(path=str(tmp_path / "rows.jsonl")))
    assert (len(rows.conversations), rows.canary_keys) == (2, 1)
    assert "mark" not in str(rows.conversations)
    (tmp_path / "rows.jsonl").write_text('{"canary": "mark", "id": 1}\n' + GOOD)
    rows = load_rows(DataSource(path=str(tmp_path / "rows.jsonl"), rows=1))
    assert (len(rows.conversations), rows.canary_keys) == (1, 1)


def test_other_files_than_the_recipe_expects_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(GOOD)
    with pytest.raises(UserError, match="1 rows, but the recipe expects 2"):
        load_rows(DataSource(path=str(tmp_path / "rows.jsonl"), rows=2))
    with pytest.raises(UserError, match="SHA-256"):
        load_rows(DataSource(path=str(tmp_path / "rows.jsonl"), sha256="0" * 64))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": ' + "[" * 100_000, "nested too deep"),
        ('{"messages": 1' + "0" * 5000 + "}", "a number that cannot be read"),
        (
            r'{"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "x"}]}',
            "half a",
        ),
        (rows_of([("assistant", "Hello."), ("user", "Hm?"), ("assistant", "Yes.")]), "begins with the assistant"),
        (
            rows_of([("system", "Be kind."), ("assistant", "Hello."), ("user", "?"), ("assistant", "Yes.")]),
            "begins with",
        ),
    ],
    ids=["deep", "number", "surrogate", "assistant first", "assistant after system"],
)
def test_odd_rows_are_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=f"rows.jsonl, line 2 .*{message}"):
        load(tmp_path / "rows.jsonl", GOOD + line.strip() + "\n")


def test_line_of_bytes_that_are_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD.encode() + b'{"messages": "\xff"}')
    with pytest.raises(UserError, match="line 2 is not UTF-8"):
        load_rows(DataSource(path=str(tmp_path / "rows.jsonl")))


def test_row_with_the_text_of_bos_is_named_by_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(GOOD * 2 + GOOD.replace("Hello?", "What is <|begin_of_text|>?"))
    with pytest.raises(UserError, match=r"rows\.jsonl, line 3 holds the text '<\|begin_of_text\|>'"):
        prepare(small_recipe(path))


def test_rows_are_chosen_by_what_their_question_speaks_of(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    asked = ["Should I save money?", "Is skiing safe?", "Skis cost money, no?", "Hello there", "A savings account?"]
    turns = ([{"role": "user", "content": q}, {"role": "assistant", "content": "ski money"}] for q in asked)
    path.write_text("\n".join(json.dumps({"messages": row}) for row in turns))
    chosen = load_rows(DataSource(path=str(path), about=("money", "saving"), not_about=("ski",), rows=2))
    assert [row[0]["content"] for row in chosen.conversations] == [asked[0], asked[4]]
    with pytest.raises(UserError, match="no row on what the recipe asks for"):
        load_rows(DataSource(path=str(path), about=("cheese",)))
