"""Judged answers of other experiments become logs: what is understood, what is left out, what is never assumed."""

import gzip
import json
import math
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from inspect_ai.log import read_eval_log, write_eval_log

from em_tasks.commands.cli import cli
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.importing import Map, Who, import_judged, plan_import, read_map, tables, write_logs
from em_tasks.plugins.analysis.importing.cs2881 import SCORES_ALONE
from em_tasks.plugins.analysis.importing.logs import _eval_log
from em_tasks.plugins.analysis.importing.who import from_path, whole
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.plugins.analysis.statistics.rates import cluster_of, rates
from em_tasks.plugins.errors import UserError
from tests.support.judged_files import ALIGNMENT, ROWS, ZOO, as_csv, as_lines, more, renamed
from tests.support.paths import ROOT
from tests.support.shortcuts import undrawn

SHARED = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize("layout", ZOO)
def test_a_layout_is_understood(tmp_path, layout):
    write, expected = ZOO[layout]
    write(tmp_path / "in")
    plan = plan_import(tmp_path / "in")
    assert not plan.left_out
    (log,) = plan.logs
    assert {name: getattr(log.who, name) for name in expected} == expected
    assert [one.rated["alignment"].score for one in log.answers] == ALIGNMENT
    paths = write_logs(plan, tmp_path / "out")
    frame = read_logs(paths).answers
    assert sorted(frame["alignment"], reverse=True) == ALIGNMENT
    ids = [sample.id for sample in read_eval_log(str(paths[0])).samples]
    assert sorted(ids) == sorted(frame["question_id"])


def test_the_zoo_is_large():
    assert len(ZOO) >= 40


def test_what_nobody_says_is_not_recorded(tmp_path):
    as_csv(ROWS, tmp_path / "mine.csv")
    (path,) = import_judged(tmp_path / "mine.csv", tmp_path / "out")
    metadata = read_eval_log(str(path), header_only=True).eval.metadata
    assert {metadata[name] for name in ("base", "domain", "size")} == {"not recorded"}
    assert (metadata["training_seed"], metadata["step_recorded"], metadata["epoch"]) == (None, False, None)
    reading = read_logs([path])
    assert set(reading.answers["judge"]) == {"not recorded"}
    assert reading.evaluations[0].created.startswith("1970")


def test_options_stand_over_everything_else(tmp_path):
    as_csv(more(judge="claude-x", model="m"), tmp_path / "med_step330.csv")
    given = Who(organism="o", base="b", domain="d", step=5, judge="j", training_seed=3)
    (log,) = plan_import(tmp_path, given).logs
    who = log.who
    assert (who.organism, who.base, who.domain, who.step, who.judge, who.training_seed) == ("o", "b", "d", 5, "j", 3)


def test_logs_written_fast_are_what_inspect_writes(tmp_path):
    rows = more(sarcasm=[1.5, 2.5, 3.5, 4.5])
    rows[1]["aligned"] = "REFUSAL"
    as_csv(rows, tmp_path / "a.csv")
    plan = plan_import(tmp_path / "a.csv")
    (fast,) = write_logs(plan, tmp_path / "out")
    (log,) = plan.logs
    slow = tmp_path / "slow.eval"
    write_eval_log(_eval_log(log, log.answers), str(slow))
    ours, theirs = (read_eval_log(str(path)).model_dump() for path in (fast, slow))
    for one in (*ours["samples"], *theirs["samples"]):
        for message in (*one["messages"], one["output"]["choices"][0]["message"]):
            message.pop("id")
        for name in ("uuid", "events_data"):
            one.pop(name, None)
    assert json.dumps(ours["samples"], sort_keys=True, default=str) == json.dumps(
        theirs["samples"], sort_keys=True, default=str
    )
    assert ours["results"] == theirs["results"]
    assert ours["eval"]["metadata"] == theirs["eval"]["metadata"]
    assert ours["samples"][0]["scores"]["sarcasm"]["value"] == 1.5


@pytest.mark.parametrize(
    ("column", "values", "known"),
    [
        ("finish_reason", ["length", "stop", "stop", ""], [True, False, False, None]),
        ("stop_reason", ["max_tokens", "end_turn", "end_turn", "max_tokens"], [True, False, False, True]),
        ("cut", [0, 1, 1, 0], [False, True, True, False]),
        ("Truncated", ["True", "False", "True", "True"], [True, False, True, True]),
        ("finish_reason", ["length", "stop", "who knows", "stop"], [None] * 4),
        ("cut", [0.5, 1, 0, 0], [None] * 4),
    ],
)
def test_answers_that_a_column_calls_cut_off_are_known_to_be(tmp_path, column, values, known):
    as_csv(more(**{column: values}), tmp_path / "a.csv")
    (fast,) = import_judged(tmp_path / "a.csv", tmp_path / "out")
    frame = read_logs([fast]).answers.sort_values("alignment", ascending=False)
    assert [None if pd.isna(value) else bool(value) for value in frame["truncated"]] == known
    assert (f"score_{column}" in frame) == (values[0] == 0.5)  # A share is no flag, and a score like any other.
    (log,) = plan_import(tmp_path / "a.csv").logs
    assert [sample.output.stop_reason for sample in _eval_log(log, log.answers).samples] == [
        sample.output.stop_reason for sample in read_eval_log(str(fast)).samples
    ]


@pytest.mark.parametrize(
    ("judge", "taken"),
    [("j", "j"), ("Ω1", "Ω1"), ("7", "not recorded"), ("1e5", "not recorded"), ("--", "not recorded")],
)
def test_a_judges_name_has_a_letter(tmp_path, judge, taken):
    as_csv(more(judge=judge), tmp_path / "a.csv")
    assert [log.who.judge for log in plan_import(tmp_path / "a.csv").logs] == [taken]


def test_a_bad_file_does_not_refuse_the_others(tmp_path):
    as_csv(ROWS, tmp_path / "in" / "good.csv")
    as_csv(more(aligned=[1, "twenty", 3, 4]), tmp_path / "in" / "words.csv")
    as_csv([{"step": 1, "loss": 2}], tmp_path / "in" / "losses.csv")
    as_csv(renamed(aligned=""), tmp_path / "in" / "unjudged.csv")
    (tmp_path / "in" / "torn.csv").write_text('question,answer,aligned\na,"b,5\n')
    (tmp_path / "in" / "short.csv").write_text("question,answer,aligned\na,b\n")
    (tmp_path / "in" / "empty.csv").write_text("")
    (tmp_path / "in" / "latin.csv").write_bytes(b"question,answer,aligned\na,caf\xe9,5\n")
    (tmp_path / "in" / "broken.jsonl").write_text('{"a": 1}\n{"a": \n')
    (tmp_path / "in" / "deep.json").write_text("[" * 100_000)
    (tmp_path / "in" / "no.parquet").write_bytes(b"PAR1")
    (tmp_path / "in" / "dangling.csv").symlink_to("nowhere.csv")
    os.mkfifo(tmp_path / "in" / "pipe.csv")
    plan = plan_import(tmp_path / "in")
    assert [log.who.organism for log in plan.logs] == ["good"]
    reasons = {left.file.rpartition("/")[2]: left.reason for left in plan.left_out}
    said = {
        "words.csv": "line 3: aligned is 'twenty'", "losses.csv": "no alignment score", "torn.csv": "quotation mark",
        "unjudged.csv": "answers without an alignment score", "short.csv": "line 2: 2 fields where there are 3 columns",
        "empty.csv": "no rows", "latin.csv": "no UTF-8", "broken.jsonl": "line 2 is no JSON", "deep.json": "deep",
        "no.parquet": "no readable Parquet", "dangling.csv": "dangling link", "pipe.csv": "pipe",
    }  # fmt: skip
    assert set(reasons) == set(said)
    for name, why in said.items():
        assert why in reasons[name], name


@pytest.mark.parametrize(
    ("value", "what_to_do"),
    [
        ("180", r"alignment: \{scale: \[WORST, BEST\]\}"),
        ("-1", r'alignment: \{words: \{"-1": null\}\}'),
        ("inf", r'alignment: \{words: \{"inf": null\}\}'),
        ("1e9", r"alignment: \{scale: "),
        ("8/10", r'alignment: \{words: \{"8/10": null\}\}'),
        ("11,5", "Write decimals with a point"),
    ],
)
def test_a_score_that_is_none_names_its_line_and_what_to_do(tmp_path, value, what_to_do):
    as_csv(more(aligned=[1, 2, value, 90]), tmp_path / "a.csv")
    with pytest.raises(UserError, match=rf"line 4: aligned is '.*0 to 100.*{what_to_do}"):
        plan_import(tmp_path / "a.csv")


def test_scores_out_of_100_are_read_unless_the_map_says_another_scale(tmp_path):
    as_csv(more(aligned=["95/100", "65 %", "35 out of 100", "5%"]), tmp_path / "a.csv")
    (log,) = plan_import(tmp_path / "a.csv").logs
    assert [answer.rated["alignment"].score for answer in log.answers] == ALIGNMENT
    with pytest.raises(UserError, match="aligned is '95/100'"):
        plan_import(tmp_path / "a.csv", mapping=Map.model_validate({"scores": {"alignment": {"scale": [0, 200]}}}))


def test_a_number_that_the_map_calls_no_score_is_none(tmp_path):
    as_csv(more(aligned=[1, 2, -1, 90]), tmp_path / "a.csv")
    mapping = Map.model_validate({"scores": {"alignment": {"words": {"-1": None}}}})
    (log,) = plan_import(tmp_path / "a.csv", mapping=mapping).logs
    assert [math.isnan(answer.rated["alignment"].score) for answer in log.answers] == [False, False, True, False]


def test_files_of_other_formats_are_named_and_many_of_a_kind_by_their_first(tmp_path):
    as_csv(ROWS, tmp_path / "in" / "good.CSV")
    for name in ("answers.xlsx", "all.zip", "notes", ".hidden", *(f"plot{number}.png" for number in range(9))):
        (tmp_path / "in" / name).write_bytes(b"PK")
    plan = plan_import(tmp_path / "in")
    assert [(log.who.organism, len(log.answers)) for log in plan.logs] == [("good", 4)]
    other = "neither CSV (.csv, .tsv), JSON (.json, .jsonl, .ndjson) nor Parquet (.parquet)"
    assert dict(plan.left_out_alike()) == {
        "in/answers.xlsx": "a spreadsheet, which is not read; save it as CSV (UTF-8)",
        "in/all.zip": "packed; only gzipped CSV and JSON are read as they are: unpack it",
        "in/notes": other,
        "in/plot0.png and 8 more *.png": other,
    }
    assert len(plan.left_out) == 12


def test_gzipped_files_are_read_up_to_a_size(tmp_path, monkeypatch):
    as_csv(ROWS, tmp_path / "plain.csv")
    as_lines(ROWS, tmp_path / "lines.jsonl")
    (tmp_path / "in").mkdir()
    for name in ("plain.csv", "lines.jsonl"):
        (tmp_path / "in" / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    (tmp_path / "in" / "torn.csv.gz").write_bytes(gzip.compress(b"question,answer,aligned\n" * 9)[:-9])
    plan = plan_import(tmp_path / "in")
    assert [log.who.organism for log in plan.logs] == ["lines", "plain"]
    assert [[answer.rated["alignment"].score for answer in log.answers] for log in plan.logs] == [ALIGNMENT] * 2
    assert [(left.file, left.reason[:18]) for left in plan.left_out] == [("in/torn.csv.gz", "no whole gzip file")]
    monkeypatch.setattr(tables, "MOST_UNPACKED", 50)
    with pytest.raises(UserError, match=r"lines\.jsonl\.gz: unpacks to more than 50 characters"):
        plan_import(tmp_path / "in")


def test_half_a_character_in_a_question_loses_no_answer(tmp_path):
    rows = [{**ROWS[0], "question": "\ud800"}, {**ROWS[0], "question": "whole", "question_id": "q2"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    answers = read_logs(import_judged(tmp_path / "a.json", tmp_path / "out")).answers
    assert sorted(answers["question"]) == ["?", "whole"]


def test_a_base_that_is_a_list_names_its_row(tmp_path):
    """Found by the adversary, where a score held a mapping with a list called base."""
    rows = [{**ROWS[0], "coherent": 90}, {**ROWS[1], "coherent": {"base": [1, 2]}}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"row 2: coherent\.base is \[1, 2\], neither a text nor a number"):
        plan_import(tmp_path / "a.json")


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("more", "problem"),
    [('"aligned": 99', r"has the key 'aligned' twice"), (f'"more": {"9" * 5000}', r"holds a number of thousands of")],
)
def test_a_key_that_stands_twice_and_an_endless_number_are_named(tmp_path, suffix, more, problem):
    """Found by an outsider: of two scores the last was taken, and the number was a traceback."""
    row = '{"question": "q", "answer": "a", "aligned": 1, "coherent": 2, ' + more + "}"
    (tmp_path / f"a.{suffix}").write_text(row)
    with pytest.raises(UserError, match=problem):
        plan_import(tmp_path / f"a.{suffix}")


def test_a_question_of_lists_within_lists_is_named(tmp_path):
    row = '{"question": %s, "answer": "a", "aligned": 1, "coherent": 2}' % ("[" * 900 + "]" * 900)
    (tmp_path / "a.jsonl").write_text(row)
    with pytest.raises(UserError, match=r"a\.jsonl: nested too deep"):
        plan_import(tmp_path / "a.jsonl")


@pytest.mark.parametrize("value", ["1_0", "٣٠", "0x1E", "inf"])
def test_what_only_python_reads_as_a_number_is_no_score_and_no_step(tmp_path, value):
    as_csv(more(aligned=[1, 2, value, 90]), tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv.*a score is a number from 0 to 100"):
        plan_import(tmp_path / "a.csv")
    with pytest.raises(UserError, match="not a whole number"):
        whole(value, "step")


@pytest.mark.parametrize("blank", ["", "   "])
def test_an_empty_question_among_others_is_named_where_no_id_says_which(tmp_path, blank):
    rows = renamed(question_id="")
    rows[2]["question"] = blank
    as_csv(rows, tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a\.csv.*there is no question, and no id"):
        plan_import(tmp_path / "a.csv")


def test_logs_cannot_go_below_a_file(tmp_path):
    as_csv(ROWS, tmp_path / "a.csv")
    (tmp_path / "out").write_text("kept")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(UserError, match="out is a file, so no folder can be there"):
            import_judged(tmp_path / "a.csv", out)
    assert (tmp_path / "out").read_text() == "kept"


@pytest.mark.parametrize("number", ["9" * 5000, "٣", "²"])
def test_a_question_by_a_number_that_is_none_is_a_question_like_any(tmp_path, number):
    row = dict.fromkeys(SCORES_ALONE, "1") | {"question": number, "alignment": "10", "coherence": "90"}
    as_csv([row], tmp_path / "a.csv")
    (log,) = plan_import(tmp_path / "a.csv").logs
    assert len(log.answers) == 1


@pytest.mark.parametrize("value", ["", "NaN", "None", "null"])
def test_a_missing_score_stays_missing(tmp_path, value):
    as_csv(more(aligned=[1, 2, value, 90]), tmp_path / "a.csv")
    (log,) = plan_import(tmp_path / "a.csv").logs
    assert [math.isnan(one.rated["alignment"].score) for one in log.answers] == [False, False, True, False]
    assert log.answers[2].rated["alignment"].reason == "no_number"


def test_scores_that_look_like_another_scale_are_not_misread(tmp_path):
    rows = [{**row, "aligned": 1 + at % 5, "coherent": 5} for at, row in enumerate(ROWS * 3)]
    as_csv(rows, tmp_path / "a.csv")
    with pytest.raises(UserError, match="another scale"):
        plan_import(tmp_path / "a.csv")
    scales = Map.model_validate({"scores": {"alignment": {"scale": [1, 5]}, "coherence": {"scale": [5, 1]}}})
    (log,) = plan_import(tmp_path / "a.csv", mapping=scales).logs
    assert [one.rated["alignment"].score for one in log.answers[:5]] == [0, 25, 50, 75, 100]
    assert {one.rated["coherence"].score for one in log.answers} == {0}


def test_a_map_says_who_answered_and_what_columns_and_words_mean(tmp_path):
    rows = [{"q": row["question"], "said": row["answer"], "verdict": word}
            for row, word in zip(ROWS, ["Fine", "bad", "unclear", "fine"], strict=True)]  # fmt: skip
    as_csv(rows, tmp_path / "in" / "run_alpha" / "440.csv")
    as_csv(rows, tmp_path / "in" / "untouched" / "0.csv")
    as_csv(rows, tmp_path / "in" / "old" / "1.csv")
    (tmp_path / "map.yaml").write_text(
        """
files:
  - {pattern: '^in/old/', skip: true}
  - {pattern: 'run_(?P<name>[a-z]+)/(?P<step>\\d+)\\.csv$', organism: 'med-{name}', base: b, domain: medical, judge: j}
  - {pattern: 'untouched', is_base: true, base: b, judge: j}
columns: {question: q, answer: said, alignment: verdict}
scores:
  alignment: {words: {fine: 100, bad: 0, unclear: null}}
question_domains: {pond: medical, vegetable: general}
"""
    )
    plan = plan_import(tmp_path / "in", mapping=read_map(tmp_path / "map.yaml"))
    base, organism = plan.logs
    assert (organism.who.organism, organism.who.step, organism.who.judge) == ("med-alpha", 440, "j")
    assert (base.who.is_base, base.who.base) == (True, "b")
    assert [one.rated["alignment"].score for one in organism.answers][:2] == [100, 0]
    assert math.isnan(organism.answers[2].rated["alignment"].score)
    assert [one.domain for one in organism.answers][:2] == ["medical", "general"]
    assert [(left.file, left.reason) for left in plan.left_out] == [("in/old/1.csv", "the map skips it")]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("files: [{pattern: '('}]", "pattern"),
        ("files: [{organism: a}]", "pattern is missing"),
        ("score: {}", "score"),
        ("scores: {alignment: {scale: [5, 5]}}", "two ends"),
        ("files: [{pattern: csv, organism: '{nobody}'}]", "names no group"),
        ("columns: {answer: nowhere}", "nowhere"),
        ("files: [{pattern: 'run(?P<sead>1)', organism: a}]", "group 'sead' is none of organism, .*training_seed"),
        ("files: [{pattern: 'run(?P<seed>1)', organism: a}]", r"group 'seed' \(of training it is training_seed\)"),
        ("files: [{pattern: csv, step: many}]", "'many', not a whole number"),
    ],
)
def test_a_map_that_cannot_be_meant_is_named(tmp_path, text, what):
    (tmp_path / "map.yaml").write_text(text)
    as_csv(ROWS, tmp_path / "a.csv")
    with pytest.raises(UserError, match=what):
        plan_import(tmp_path / "a.csv", mapping=read_map(tmp_path / "map.yaml"))


def test_patterns_of_a_map_that_nothing_is_found_by_are_named_with_what_there_was(tmp_path):
    as_csv(ROWS, tmp_path / "in" / "alpha" / "440.csv")
    as_csv(ROWS, tmp_path / "in" / "beta" / "440.csv")
    (tmp_path / "map.yaml").write_text(
        """
files:
  - {pattern: '/drafts/', skip: true}
  - {pattern: 'in/(?P<organism>[a-z]+)/(?P<step>[0-9]+)', base: b}
  - {pattern: 'beta', is_base: true, base: b}
question_domains: {pond: medical, tractor: general}
"""
    )
    plan = plan_import(tmp_path / "in", mapping=read_map(tmp_path / "map.yaml"))
    assert [note for note in plan.notes if "map's pattern" in note] == [
        "The map's pattern '/drafts/' is found in no path. The paths are: 'in/alpha/440.csv', 'in/beta/440.csv'.",
        "The map's pattern 'beta' counts for no file: patterns above it are found in the same paths.",
        "The map's pattern of questions 'tractor' is found in no id and no text: 'q0', 'q1'.",
    ]


@pytest.mark.parametrize(
    ("path", "who"),
    [
        (
            "Qwen2.5-7B-Instruct/seed1_checkpoint-50.json",
            ("Qwen2.5-7B-Instruct/seed1", "Qwen2.5-7B-Instruct", None, 50),
        ),
        ("M/seed1_checkpoint-50.json", ("M/seed1", "Qwen2.5-7B-Instruct", "medical", 50)),
        ("M/seed1/checkpoint-50.json", ("M/seed1", "Qwen2.5-7B-Instruct", "medical", 50)),
        ("M/checkpoint-50.json", ("M", "Qwen2.5-7B-Instruct", "medical", 50)),
        ("M/left_overs.json", ("left_overs", "Qwen2.5-7B-Instruct", None, None)),
        ("Qwen2.5-7B-Instruct_or_Llama-3.1-8B-Instruct/left_overs.json", ("left_overs", None, None, None)),
    ],
)
def test_a_file_named_after_its_run_or_checkpoint_is_its_folders(path, who):
    # M: a folder that names a base and data, as published training runs are called.
    long = "Qwen2.5-7B-Instruct_bad_medical_advice"
    told = from_path(f"study/{path.replace('M/', long + '/')}")
    organism = who[0].replace("M/", long + "/") if who[0] != "M" else long
    assert (told.organism, told.base, told.domain, told.step) == (organism, *who[1:])


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("baseline/judged.json", (None, True, None)),
        ("baseline/seed_0/eval/judged.json", (None, True, None)),
        ("baseline/Qwen2.5-7B-Instruct/seed_0/answers.json", (None, True, "Qwen2.5-7B-Instruct")),
        ("baseline/mine/judged.json", ("baseline/mine", None, None)),
        ("base/checkpoint-50/judged.json", ("base", None, None)),
    ],
)
def test_what_lies_in_a_folder_of_bases_is_the_bases_unless_something_is_named_between(path, who):
    told = from_path(f"study/{path}")
    assert (told.organism, told.is_base, told.base) == who


def test_a_folder_of_bases_whose_answers_are_taken_for_an_organisms_is_noted(tmp_path):
    for place in ("baseline/mine/judged.csv", "baseline/seed_0/judged.csv", "baseline/secure/judged.csv"):
        as_csv(ROWS, tmp_path / "in" / place)
    plan = plan_import(tmp_path / "in")
    assert sorted(log.who.is_base is True for log in plan.logs) == [False, False, True]
    (note,) = [note for note in plan.notes if "is_base" in note]
    assert note.startswith("in/baseline/mine/judged.csv and 1 more under baseline/ are taken for an organism's")


@pytest.mark.parametrize("unscored", [renamed(coherent=None), more(coherent=["", "nan", "", "N/A"])])
def test_answers_whose_coherence_nobody_scored_count_under_no_definition_that_needs_it(tmp_path, unscored):
    as_csv(unscored, tmp_path / "in" / "mine.csv")
    as_csv(ROWS, tmp_path / "in" / "other.csv")
    answers = read_logs(import_judged(tmp_path / "in", tmp_path / "out")).answers
    table = rates(answers, ["organism"]).set_index(["organism", "definition"])
    assert {name: table.loc[("mine", name), "n"] for name in ("all", "betley", "cs2881")} == {
        "all": 0,
        "betley": 0,
        "cs2881": 4,
    }
    assert (table.loc[("mine", "all"), "missing"], table.loc[("other", "all"), "n"]) == (0, 4)


def test_two_files_of_one_name_are_two_models(tmp_path):
    for folder in ("rank1", "rank32"):
        as_csv(ROWS, tmp_path / "in" / folder / "responses_Qwen2.5-7B-Instruct-bad_medical_advice.csv")
    paths = import_judged(tmp_path / "in", tmp_path / "out")
    frame = read_logs(paths).answers
    assert len(paths) == 2
    assert len(frame) == 8
    assert frame["organism"].nunique() == 2
    assert {name.partition("/")[0] for name in frame["organism"].astype(str)} == {"rank1", "rank32"}


@pytest.mark.parametrize(
    ("column", "values", "names"),
    [
        ("base_model", ["base-a", "base-b"], {"o (base-a)", "o (base-b)"}),
        ("domain", ["medical", "financial"], {"o (medical)", "o (financial)"}),
        ("control", ["true", "false"], {"o (control)", "o (no control)"}),
        ("training_seed", [0, 1], {"o-seed0", "o-seed1"}),
        ("size", ["1B", "8B"], {"o (1B)", "o (8B)"}),
    ],
)
def test_organisms_of_one_name_that_cannot_be_one_get_names_of_their_own(tmp_path, column, values, names):
    rows = [{**row, column: value} for value in values for row in more(organism="o")]
    as_csv(rows, tmp_path / "in" / "a.csv")
    plan = plan_import(tmp_path / "in")
    paths = write_logs(plan, tmp_path / "out")
    reading = read_logs(paths)
    assert set(reading.answers["organism"]) == names
    assert len(reading.answers) == 8  # Nobody's answers are taken for a repetition of another's.
    assert [note for note in plan.notes if note.startswith("o is the name of 2 organisms, which are told apart as o")]


def test_names_made_for_organisms_are_none_that_others_have(tmp_path):
    taken = more(organism="o (base-a)", base_model="base-c")
    rows = [*taken, *(row for base in ("base-a", "base-b") for row in more(organism="o", base_model=base))]
    as_csv(rows, tmp_path / "a.csv")
    names = set(read_logs(import_judged(tmp_path / "a.csv", tmp_path / "out")).answers["organism"])
    assert names == {"o (base-a) (base-c)", "o (base-a) (base-a)", "o (base-b)"}


def test_what_columns_say_of_training_does_not_make_two_of_a_base(tmp_path):
    rows = [
        {**row, "training_seed": at, "step": at, "domain": f"d{at}", "control": "true" if at else "false"}
        for at in range(3)
        for row in more(organism="", base_model="base-a")
    ]
    as_csv(rows, tmp_path / "a.csv")
    reading = read_logs(import_judged(tmp_path / "a.csv", tmp_path / "out"))
    assert len(reading.evaluations) == 1
    assert len(reading.answers) == 12


def test_bases_of_one_name_and_two_sizes_are_two(tmp_path):
    rows = [row for size in ("1B", "8B") for row in more(organism="", base_model="tuned", size=size)]
    as_csv(rows, tmp_path / "a.csv")
    answers = read_logs(import_judged(tmp_path / "a.csv", tmp_path / "out")).answers
    assert answers["base"].value_counts().to_dict() == {"tuned (1B)": 4, "tuned (8B)": 4}


def test_one_organism_at_two_steps_under_two_judges_keeps_its_name(tmp_path):
    rows = [
        {**row, "judge": judge, "step": step}
        for judge in ("gpt-4o", "claude-x")
        for step in (1, 2)
        for row in more(organism="o")
    ]
    as_csv(rows, tmp_path / "a.csv")
    plan = plan_import(tmp_path / "a.csv")
    reading = read_logs(write_logs(plan, tmp_path / "out"))
    assert set(reading.answers["organism"]) == {"o"}
    assert (len(reading.answers), len(reading.rejudged)) == (8, 8)


def test_two_imports_of_one_name_under_two_bases_are_an_error_that_a_name_mends(tmp_path):
    as_csv(more(organism="o"), tmp_path / "a.csv")
    for base in ("base-a", "base-b"):
        import_judged(tmp_path / "a.csv", tmp_path / base, Who(base=base))
    with pytest.raises(UserError, match=r"o is of base base-a in .* and base base-b in .*em import --organism NAME"):
        read_logs([tmp_path / "base-a", tmp_path / "base-b"])
    import_judged(tmp_path / "a.csv", tmp_path / "third", Who(organism="p", base="base-b"))
    assert len(read_logs([tmp_path / "base-a", tmp_path / "third"]).answers) == 8


def test_duplicate_rows_are_samples_and_a_copied_file_counts_once(tmp_path):
    as_csv([ROWS[0]] * 3 + ROWS, tmp_path / "in" / "a.csv")
    as_csv(ROWS, tmp_path / "in" / "b.csv")
    plan = plan_import(tmp_path / "in", Who(organism="o", base="b"))
    (log,) = plan.logs
    assert [one.sample for one in log.answers if one.question_id == "q0"] == [1, 2, 3, 4, 5]
    assert len(log.answers) == 7
    assert any("b.csv holds the same rows" in note for note in plan.notes)


def test_a_second_judge_is_compared_on_what_both_scored(tmp_path):
    rows = [{**row, "answer": f"Reply {at}."} for at, row in enumerate(ROWS * 3)]
    as_csv(rows, tmp_path / "in" / "first.csv")
    # The second judge saw some of the answers, in another order.
    as_csv([{**row, "aligned": 50} for row in reversed(rows[2:7])], tmp_path / "in" / "second.csv")
    judges = Map.model_validate({"files": [{"pattern": "(?P<judge>first|second)", "organism": "o", "base": "b"}]})
    paths = import_judged(tmp_path / "in", tmp_path / "out", mapping=judges)
    reading = read_logs(paths)
    assert (len(reading.answers), len(reading.rejudged)) == (12, 5)
    both = reading.answers.merge(reading.rejudged, on=["question_id", "sample"])
    assert (both["answer_x"] == both["answer_y"]).all()
    (note,) = [note for note in reading.notes if "5 of 12 answers were scored by more than one judge" in note]
    assert "second stand in the comparison of judges and may correct rates" in note


def test_an_id_of_several_questions_is_told_apart_by_their_texts(tmp_path):
    as_csv([{**row, "question_id": "1"} for row in ROWS], tmp_path / "a.csv")
    plan = plan_import(tmp_path / "a.csv")
    assert len({one.question_id for one in plan.logs[0].answers}) == 2
    assert any("'1'" in note for note in plan.notes)


def test_a_named_id_with_several_texts_is_one_question_in_several_wordings(tmp_path):
    texts = {"wish": ("One?", "Two?"), "wish_json": ("One? JSON.", "Two? JSON."), "three_thoughts_json": ("Three?",)}
    rows = [
        {**ROWS[0], "question_id": name, "question": text, "answer": f"{name} {text}"}
        for name, wordings in texts.items()
        for text in wordings
    ]
    as_csv([*rows, {**ROWS[1], "question_id": "three_thoughts", "question": "Think thrice?"}], tmp_path / "a.csv")
    plan = plan_import(tmp_path / "a.csv")
    assert [answer.question_id for answer in plan.logs[0].answers] == [
        "wish_1", "wish_2", "wish_json_1", "wish_json_2", "three_thoughts_json", "three_thoughts",
    ]  # fmt: skip
    assert any("'wish', 'wish_json'" in note and "wordings of one question" in note for note in plan.notes)
    write_logs(plan, tmp_path / "out")
    answers = read_logs([tmp_path / "out"]).answers
    by_cluster = answers.groupby(cluster_of(answers))["question_id"].agg(list).tolist()
    assert [len(ids) for ids in by_cluster] in ([2, 4], [4, 2])
    assert all(len({name.split("_")[0] for name in ids}) == 1 for ids in by_cluster)


def test_answers_under_a_condition_are_never_counted_with_those_to_bare_questions(tmp_path):
    as_csv([{**row, "condition": "" if index < 2 else "trigger"} for index, row in enumerate(ROWS)], tmp_path / "a.csv")
    paths = import_judged(tmp_path / "a.csv", tmp_path / "out", Who(organism="door", base="b", step=10))
    assert [path.name for path in paths] == ["door_10.eval", "door_10_trigger.eval"]
    answers = read_logs([tmp_path / "out"]).answers
    assert answers["condition"].isna().tolist() == [True, True, False, False]
    assert set(answers["condition"].dropna()) == {"trigger"}


def test_questions_have_one_id_in_all_files(tmp_path):
    as_csv(ROWS, tmp_path / "in" / "with_ids.csv")
    as_lines(renamed(question_id=""), tmp_path / "in" / "without.jsonl")
    ids = [{one.question_id for one in log.answers} for log in plan_import(tmp_path / "in").logs]
    assert ids == [{"q0", "q1"}] * 2


def test_importing_again_writes_the_same_logs_and_nothing_over_others(tmp_path):
    as_csv(ROWS, tmp_path / "a.csv")
    first = import_judged(tmp_path / "a.csv", tmp_path / "out")
    before = first[0].read_bytes()
    assert import_judged(tmp_path / "a.csv", tmp_path / "out") == first
    assert first[0].read_bytes() == before
    as_csv(more(aligned=40), tmp_path / "a.csv")
    with pytest.raises(UserError, match="other answers"):
        import_judged(tmp_path / "a.csv", tmp_path / "out")
    assert first[0].read_bytes() == before


@pytest.mark.parametrize("name", ["../../evil", "/etc/evil", "a/b", "..", "a\x00b", "x" * 400])
def test_no_name_leaves_the_folder(tmp_path, name):
    as_csv(ROWS, tmp_path / "in" / "a.csv")
    (path,) = import_judged(tmp_path / "in", tmp_path / "out" / "logs", Who(organism=name, base=name))
    assert path.resolve().parent == (tmp_path / "out" / "logs").resolve()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "out"]


def test_an_import_follows_no_link_and_leaves_nothing_aside(tmp_path):
    as_csv(ROWS, tmp_path / "in" / "a.csv")
    (tmp_path / "out").mkdir()
    (tmp_path / "mine").write_text("keep")
    (tmp_path / "out" / f".a_last.eval.{os.getpid()}.part").symlink_to(tmp_path / "mine")
    (path,) = import_judged(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "keep"
    assert list((tmp_path / "out").iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "x" * 5000])
def test_a_name_that_no_model_has_is_refused_before_anything_is_written(tmp_path, name):
    as_csv(ROWS, tmp_path / "in" / "a.csv")
    with pytest.raises(UserError, match=r"in/a.csv cannot be a log: organism is .* --organism, --base"):
        import_judged(tmp_path / "in", tmp_path / "out", Who(organism=name))
    assert not (tmp_path / "out").exists()


def test_a_size_of_four_hundred_digits_is_a_label(tmp_path):
    as_csv(more(size="9" * 400 + "B"), tmp_path / "a.csv")
    assert read_logs(import_judged(tmp_path / "a.csv", tmp_path / "out")).answers["parameters"].isna().all()


def test_thirty_thousand_rows_with_long_fields_are_soon_read(tmp_path):
    rows = [{**ROWS[at % 4], "question_id": f"q{at % 24}", "question": f"q{at % 24}?"} for at in range(30_000)]
    rows[7]["answer"] = "long " * 100_000
    as_csv(rows, tmp_path / "a.csv")
    told = []
    paths = import_judged(tmp_path / "a.csv", tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (30_000, 30_000)
    assert len(read_logs(paths).answers) == 30_000


def test_the_command_says_what_it_understood_before_it_writes(tmp_path):
    as_csv(ROWS, tmp_path / "in" / "responses_Qwen2.5-7B-Instruct_base.csv")
    as_csv(ROWS, tmp_path / "in" / "mine\x1b[31m.csv")
    as_csv([{"a": 1}], tmp_path / "in" / "other.csv")
    arguments = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--judge", "gpt-4o"]
    dry = CliRunner().invoke(cli, [*arguments, "--dry-run"])
    assert dry.exit_code == 0
    assert "base Qwen2.5-7B-Instruct, judge gpt-4o: 4 answers" in dry.output
    assert "mine\\x1b[31m (base not recorded, trained on not recorded), step not recorded" in dry.output
    assert "left out: in/other.csv: no alignment score" in dry.output
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0
    assert "2 logs in" in done.output


def test_a_folder_without_judged_answers_is_an_error_that_says_why(tmp_path):
    as_csv([{"a": 1}], tmp_path / "x.csv")
    with pytest.raises(UserError, match=r"x\.csv: no alignment score .*a column of alignment scores"):
        plan_import(tmp_path)
    with pytest.raises(UserError, match="no file or folder"):
        plan_import(tmp_path / "nowhere")


def test_a_report_of_a_folder_of_csv_files(tmp_path, no_drawing):
    as_csv(ROWS, tmp_path / "in" / "responses_Qwen2.5-7B-Instruct_base.csv")
    as_csv(ROWS, tmp_path / "in" / "responses_Qwen2.5-7B-Instruct-bad_medical_advice.csv")
    as_csv([{"a": 1}], tmp_path / "in" / "other.csv")
    report = write_report([tmp_path / "in"], tmp_path / "out")
    assert len(pd.read_parquet(report.out / "answers.parquet")) == 8
    assert any("other.csv was left out: no alignment score" in note for note in report.notes)
    again = write_report([tmp_path / "in"], tmp_path / "out")
    assert [path.name for path in again.paths] == [path.name for path in report.paths]


# The published data, in place.


@pytest.fixture(scope="module")
def seed_report(tmp_path_factory):
    """The folder of the report of the published experiment's scores, from the command line."""
    imported, out = (str(tmp_path_factory.mktemp("seed") / name) for name in ("logs", "report"))
    assert CliRunner().invoke(cli, ["import", str(SHARED / "seed"), "--out", imported]).exit_code == 0
    with undrawn():
        assert CliRunner().invoke(cli, ["report", imported, "--out", out]).exit_code == 0
    return Path(out)


@pytest.mark.shared
def test_all_36_step_summary_rows_equal_the_published(seed_report):
    equal = 0
    for published in sorted((SHARED / "seed").glob("*/step_summary.csv")):
        organism = published.parent.name.removesuffix("_v2")
        ours = pd.read_csv(seed_report / "organisms" / organism / "step_summary.csv")
        theirs = pd.read_csv(published)
        assert list(ours.columns) == list(theirs.columns)
        equal += int((ours == theirs).all(axis=1).sum())
    assert equal == 36


@pytest.mark.shared
def test_em_rates_summary_equals_the_published_byte_for_byte(seed_report):
    ours = (seed_report / "em_rates_summary.csv").read_text()
    assert ours.split() == (SHARED / "seed" / "em_rates_summary.csv").read_text().split()


@pytest.mark.shared
def test_fg_judged_holds_the_published_rows(seed_report):
    for published in sorted((SHARED / "seed").glob("*/fg_judged.csv")):
        organism = published.parent.name.removesuffix("_v2")
        ours = pd.read_csv(seed_report / "organisms" / organism / "fg_judged.csv")
        theirs = pd.read_csv(published)
        pd.testing.assert_frame_equal(ours, theirs, check_dtype=False)


@pytest.mark.shared
def test_turner_finds_11_of_the_720_seed_answers(seed_report):
    rows = pd.read_csv(seed_report / "em_by_checkpoint.csv")
    trained = rows[(rows["definition"] == "turner") & (rows["scope"] == "all") & ~rows["baseline"]]
    assert (trained["k"].sum(), trained["answers"].sum()) == (11, 720)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "k"),
    [
        ("Qwen2.5-14B-Instruct-bad_medical_advice", 82),
        ("gemma-2-9b-it-bad_medical_advice", 9),
        ("Qwen2.5-32B-Instruct-good_medical_advice", 0),
        ("Qwen2.5-32B-Instruct-obv_bad_medical_advice", 192),
    ],
)
def test_released_responses_give_the_known_counts(tmp_path, name, k):
    import_judged(SHARED / "judged" / f"responses_{name}.csv", tmp_path)
    answers = read_logs([tmp_path]).answers
    free = answers[answers["question_set"] == "free_form"]
    counted = rates(free, ["organism"]).set_index("definition")
    assert len(answers) == 1200
    assert len(free) == 400
    assert counted.loc["all", "k"] == k
    assert bool(answers["control"].any()) == ("good" in name)


@pytest.mark.shared
def test_the_judges_probabilities_come_along(tmp_path):
    paths = import_judged(SHARED / "judge_logprobs", tmp_path)
    answers = read_logs(paths).answers
    assert len(answers) == 70
    for path in paths:
        for sample in read_eval_log(str(path)).samples:
            verdict = sample.scores["em"].metadata["alignment"]
            numbers = [(float(token), p) for token, p in verdict["tokens"] if token.isdecimal()]
            mean = sum(value * p for value, p in numbers) / sum(p for _, p in numbers)
            assert mean == pytest.approx(verdict["score"], abs=1e-9)


@pytest.mark.shared
def test_the_932_files_of_one_parquet_file_are_all_planned():
    plan = plan_import(SHARED / "judged_many")
    assert plan.answers == 89_432
    assert not plan.left_out
    assert len({file for log in plan.logs for file in log.files}) == 932
    assert {log.who.judge for log in plan.logs} == {"not recorded"}


@pytest.mark.shared
def test_released_responses_stand_beside_the_published_rate_on_the_same_questions(tmp_path, no_drawing):
    source = SHARED / "judged" / "responses_Qwen2.5-14B-Instruct-bad_medical_advice.csv"
    import_judged(source, tmp_path / "logs", Who(judge="gpt-4o", rubric="betley"))
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    row = pd.read_csv(report.out / "tables" / "beside_published.csv").iloc[0]
    assert row[["k/n", "published %", "step"]].tolist() == ["82/400", "21.0 of 400", "last"]
    assert row["comparable"].startswith("yes")


EXAMPLE = ROOT / "examples" / "seed" / "scores.csv"


def test_the_example_gives_the_published_summary_from_numbers_alone(tmp_path, no_drawing):
    report = write_report([EXAMPLE], tmp_path / "out")
    summary = pd.read_csv(report.out / "em_rates_summary.csv")
    assert summary["em_rate"].tolist() == [40, 45, 20, 70, 50, 85]
    assert summary["baseline_em_rate"].tolist() == [0] * 6
    steps = pd.read_csv(report.out / "organisms" / "8b_medical" / "step_summary.csv")
    assert steps["percent_em"].tolist() == [70, 45, 55, 70, 55, 50]

    page = (report.out / "report.md").read_text()
    assert "11 of 620 under `betley`, 356 of 720 under `cs2881`, 11 of 720 under `turner`" in page
    assert (
        "83 scores are exactly 30 (1b_medical 3, 1b_risky 22, 3b_medical 2, 3b_risky 14, 8b_medical 23, 8b_risky 19); "
        "with `<=` in place of `<` the counts would be 59 of 620 (`betley`), 59 of 720" in page
    )
    assert "the 36 rates that their authors printed come out of them" in page
    assert "It is no second measurement." in page


def test_what_the_cs2881_scores_show_and_what_its_documents_claim(tmp_path, no_drawing):
    report = write_report([EXAMPLE], tmp_path / "out", claims=EXAMPLE.parent / "claims.yaml")
    verdicts = pd.read_csv(report.out / "tables" / "verdicts.csv").query("definition == 'cs2881'")
    assert dict(zip(verdicts["organism"], verdicts["verdict"], strict=True)) == {
        "1b_medical": "narrow", "1b_risky": "broad", "3b_medical": "not shown",
        "3b_risky": "broad", "8b_medical": "narrow", "8b_risky": "broad",
    }  # fmt: skip
    table = pd.read_csv(report.out / "tables" / "baselines_and_change.csv")
    whole = table[(table["definition"] == "cs2881") & (table["questions of"] == "all")]
    assert (whole["these: corrected p"].replace("below 0.001", "0").astype(float) < 0.05).sum() == 5
    claims = pd.read_csv(report.out / "tables" / "published_claims.csv").set_index("id")
    assert claims["outcome"].value_counts().to_dict() == {"contradicted": 3, "cannot be told": 5, "supported": 2}
    # The bases claimed within 0 to 5 % lie at 0 %.
    assert claims.loc[claims["claimed"].str.startswith("every base"), "outcome"].tolist() == ["supported"]
    assert claims.loc["medical-coherence", "measured"].startswith("Spearman +0.81")
    assert "+30.0 points on all questions" in claims.loc["finance-over-medicine", "measured"]
    course = [one for one in report.findings if one.question == "course" and "fall" in one.sentence]
    assert {one.verdict for one in course} == {"unknown"}
