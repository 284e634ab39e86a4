"""Names from data as file names and as text for people."""

import itertools

import pytest
from inspect_ai.log import list_eval_logs, read_eval_log

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.safe_names import LONGEST, file_name, printable
from em_tasks.sweep.plan import place_for_logs
from tests.support.analysis_logs import answers, base_log

ALPHABET = ["a", "A", "-", "/", ".", " ", "%", "2", "F", "\\", "\x00", "é", ":", "~", "\n"]


def test_no_two_names_give_one_file():
    names = ["".join(parts) for length in range(5) for parts in itertools.product(ALPHABET, repeat=length)]
    names += ["a" * length for length in (LONGEST, LONGEST + 1, 500)] + [
        "con",
        "CON.txt",
        "%63on",
        "~63on",
        "a" * 499 + "b",
    ]
    assert len({file_name(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "name", ["..", ".", "/etc/passwd", "../../x", "a\\b", "C:x", "", "x" * 5000, "nul", ".hidden", "a\x00b", "\ud800"]
)
def test_a_name_stays_in_its_folder(tmp_path, name):
    path = tmp_path / file_name(name)
    path.write_text("kept")
    assert path.resolve().parent == tmp_path.resolve()
    assert [file.name for file in tmp_path.iterdir()] == [file_name(name)]
    assert not file_name(name).startswith(".")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("1b_medical", "1b_medical"),
        ("llama-1b-medical (bf16)", "llama-1b-medical (bf16)"),
        ("meta-llama/Llama-3.2-1B", "meta-llama--Llama-3.2-1B"),
        ("a--b", "a~2D~2Db"),
    ],
)
def test_ordinary_names_stay_readable(name, safe):
    assert file_name(name) == safe


def test_logs_in_a_folder_of_such_a_name_are_found_again_by_inspect(tmp_path):
    log = base_log(tmp_path / file_name("conds.yaml:exam"), answers([(90, 90)]))
    (listed,) = list_eval_logs(str(log.parent))
    assert read_eval_log(listed).eval.model == read_eval_log(str(log)).eval.model


def test_a_place_where_inspect_would_lose_logs_is_refused(tmp_path):
    with pytest.raises(UserError, match="Inspect takes the %3A in it"):
        place_for_logs(tmp_path / "conds.yaml%3Aexam")


def test_controls_are_shown_and_do_nothing():
    assert printable("a\x1b[31mb\u202ec\x00") == "a\\x1b[31mb\\u202ec\\x00"
    assert printable("two\nlines, 日本 👩\u200d🔬") == "two\nlines, 日本 👩\u200d🔬"
