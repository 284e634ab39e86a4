"""Names, questions and answers may be anything: no report ends over them, nothing in them is markup, none is a path."""

import io
import json
import math
import os
import zipfile
from xml.etree import ElementTree

import pandas as pd
import pytest
from rich.console import Console

from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.figures.heatmap import question_heatmap
from em_tasks.plugins.analysis.report.report import _write_figures, write_report
from em_tasks.plugins.analysis.tables.markup import guarded, markdown_cell, markdown_text
from tests.support.analysis_logs import NAN, answers, base_log, checkpoint_log

BAD, GOOD = (10, 90), (90, 90)
HOSTILE = [
    "$5 into $10",
    "x$",
    "[bold]red[/bold]",
    "[/]",
    "a\x1b[31mred\x1b]0;title\x07",
    "<script>alert(1)</script>",
    "![x](y) `code` **bold** | cell",
    "line\nbreak\r\n",
    "\u202egnp.exe",
    "NUL\x00byte",
    "\\textbf{x} & 50% #1 {",
    "=HYPERLINK(1)",
    "../../outside",
    "/etc/outside",
    "..",
    "日本 👩\u200d🔬",
    "n" * 300,
    "%s {0} {name}",
]


@pytest.mark.parametrize("names", [HOSTILE[start::3] for start in range(3)], ids=["first", "second", "third"])
def test_hostile_names_are_reported_as_what_they_are(tmp_path, names, coarse_drawing):
    for number, name in enumerate(names):
        asked = {**answers([BAD, GOOD], 2), f"m{name}": [BAD, GOOD], f"g{name}": [GOOD, BAD]}
        about = {"base": name, "size": name, "judge": name}
        checkpoint_log(tmp_path / "logs", asked, organism=name, domain=name, name=f"log{number}", **about)
        base_log(tmp_path / "logs", asked, name=f"base{number}", **about)
    report = write_report([tmp_path / "logs"], tmp_path / "here" / "out")

    assert all((tmp_path / "here" / "out").resolve() in path.resolve().parents for path in report.paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "logs"]
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["out"]
    assert len({path for path in report.paths if path.name == "fg_judged.csv"}) == len(names)
    for figure in report.out.rglob("*.svg"):
        ElementTree.parse(figure)
    assert "<script>alert(1)" not in (report.out / "report.html").read_text()
    for path in report.out.rglob("*.md"):
        text = path.read_text()
        assert "<script" not in text
        assert "\x1b" not in text
    console = Console(file=io.StringIO(), width=400, force_terminal=True)
    console.print(report.table())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b[31mred" not in shown
    assert "\u202e" not in shown
    exact = pd.read_parquet(report.out / "answers.parquet")
    kept = {name for name in names if not name.startswith("/")}
    assert kept <= set(exact["organism"].dropna())
    assert {f"m{name}" for name in names} <= set(exact["question_id"])


def test_dollar_signs_are_drawn_as_such(tmp_path):
    checkpoint_log(tmp_path / "logs", {"m$5 into $10": [BAD], "m$a$ and $b$": [GOOD]})
    figure = question_heatmap(analyse([tmp_path / "logs"]))
    _, drawing = _write_figures({"question_heatmap": figure}, tmp_path)
    assert "$5 into $10" in drawing.read_text()


def test_two_names_never_share_a_folder(tmp_path, no_drawing):
    for name in ("a/b", "a--b", "a b", "a%20b", "A b"):
        checkpoint_log(tmp_path / "logs", answers([BAD], 2), organism=name, name=f"log{hash(name)}")
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert len({path for path in report.paths if path.name == "fg_judged.csv"}) == 5


def test_formulas_are_guarded_for_people_and_exact_in_parquet(tmp_path, no_drawing):
    checkpoint_log(tmp_path / "logs", {"m1": [BAD]}, organism="=1+1", judge="@judge")
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    people = pd.read_csv(report.out / "answers.csv")
    assert people[["organism", "judge"]].iloc[0].tolist() == ["'=1+1", "'@judge"]
    exact = pd.read_parquet(report.out / "answers.parquet")
    assert exact[["organism", "judge"]].iloc[0].tolist() == ["=1+1", "@judge"]
    for path in report.paths:
        if path.suffix == ".csv":
            assert not any(cell.strip('"').startswith(("=", "@")) for cell in path.read_text().split(","))


def test_the_guard_knows_numbers_from_formulas():
    table = pd.DataFrame({"a": ["-3.1", "+20.0", "-1.0 to +5.0", "-cmd", "+A1", "x", None, "\t1"], "b": range(8)})
    assert guarded(table)["a"].tolist()[:6] == ["-3.1", "+20.0", "-1.0 to +5.0", "'-cmd", "'+A1", "x"]
    assert guarded(table)["a"].iloc[7] == "'\t1"
    assert guarded(table)["b"].tolist() == list(range(8))


def test_code_of_ours_stays_code_in_markdown_and_data_does_not_become_it():
    assert markdown_text("under `<40+coherent` 5 of 6") == "under `<40+coherent` 5 of 6"
    assert markdown_text("org `x <b>` [a](b)") == "org \\`x &lt;b&gt;\\` \\[a\\](b)"
    assert markdown_cell("a|b\nc") == "a\\|b c"


def test_folders_of_this_machine_stay_out_of_reports(tmp_path, coarse_drawing):
    home = "/home/someone/models"
    for organism, base in (("a", f"{home}/x/mine"), ("b", f"{home}/y/mine"), (f"c ({home}/x/mine bf16)", "b")):
        checkpoint_log(tmp_path / "logs", answers([BAD], 2), organism=organism, base=base, size=base, name=organism[0])
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert read_logs([tmp_path / "logs"]).answers["base"].nunique() == 3
    for path in report.out.rglob("*"):
        assert "someone" not in str(path)
        if path.suffix in (".csv", ".md", ".html", ".tex", ".svg"):
            assert "someone" not in path.read_text(), path


def rewrite_header(path, **metadata):
    with zipfile.ZipFile(path) as log:
        members = {name: log.read(name) for name in log.namelist()}
    with zipfile.ZipFile(path, "w") as log:
        for name, data in members.items():
            if name == "header.json":
                header = json.loads(data)
                header["eval"]["metadata"] |= metadata
                header["metadata"] = header["eval"]["metadata"]
                data = json.dumps(header).encode()  # noqa: PLW2901
            log.writestr(name, data)


@pytest.mark.parametrize(
    ("metadata", "why"),
    [({"step": None}, "step is None"), ({"step": 1e30}, "step is 1e"), ({"organism": ["a"]}, "organism is")],
)
def test_a_log_with_odd_metadata_is_named_and_the_others_are_read(tmp_path, metadata, why):
    checkpoint_log(tmp_path, {"m1": [BAD]})
    rewrite_header(checkpoint_log(tmp_path, {"m1": [BAD]}, step=20), **metadata)
    reading = read_logs([tmp_path])
    assert reading.answers["step"].tolist() == [10]
    assert any("med_20.eval was left out" in note and why in note for note in reading.notes)


def test_scores_off_the_scale_are_named_and_count_as_none(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(180, 90), (-5, 90), (50, 1e9), (100, 0), (NAN, math.inf)]})
    reading = read_logs([tmp_path])
    assert reading.answers["alignment"].isna().tolist() == [True, True, False, False, True]
    assert any("3 scores are below 0 or above 100" in note for note in reading.notes)


def test_pipes_dangling_links_and_odd_names_do_not_end_a_report(tmp_path, no_drawing):
    logs = tmp_path / "logs"
    checkpoint_log(logs, answers([BAD], 2), name="odd \x1b[31m \udcff name")
    (logs / "gone.eval").symlink_to("nowhere.eval")
    os.mkfifo(logs / "pipe.eval")
    (logs / "folder.eval").mkdir()
    report = write_report([logs], tmp_path / "out")
    assert len(report.rates)
    assert any("gone.eval is a link to nothing" in note for note in report.notes)
    assert any("pipe.eval is a pipe" in note for note in report.notes)


def test_bases_and_foreign_models_alone_are_a_report(tmp_path, coarse_drawing):
    base_log(tmp_path / "logs", {**answers([BAD, GOOD], 3), "g1": [GOOD]})
    base_log(tmp_path / "logs", answers([GOOD], 3), base="openai/gpt-4o", size="gpt-4o", parameters=None)
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    console = Console(file=io.StringIO(), width=120)
    console.print(report.table())
    assert "openai/gpt-4o (base)" in console.file.getvalue()  # type: ignore[attr-defined]
    assert "42.9 " in console.file.getvalue()  # type: ignore[attr-defined]
    assert {"question_heatmap.png", "domain_comparison.png"} <= {path.name for path in report.paths}


def test_a_log_that_lacks_samples_is_named(tmp_path):
    path = checkpoint_log(tmp_path, {"m1": [BAD], "m2": [GOOD]})
    with zipfile.ZipFile(path) as log:
        members = {name: log.read(name) for name in log.namelist() if not name.startswith("samples/m2")}
    with zipfile.ZipFile(path, "w") as log:
        for name, data in members.items():
            log.writestr(name, data)
    reading = read_logs([tmp_path])
    assert reading.answers["question_id"].tolist() == ["m1"]
    assert any("lacks 1 of its 2 samples" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(0.0625, "6.3"), (0.145, "14.5"), (0.00249, "0.2"), (29 / 200, "14.5"), (1, "100.0")],
)
def test_rates_are_rounded_once_and_half_up(rate, shown):
    from em_tasks.plugins.analysis.tables.cells import percent

    assert percent(rate) == shown
