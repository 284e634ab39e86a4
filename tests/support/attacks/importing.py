"""Judged answers of other experiments, and maps that say what their files hold."""

import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
from hypothesis import strategies as st

from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.importing import Map, Who, plan_import, read_map, write_logs
from em_tasks.plugins.analysis.importing.cs2881 import SCORES_ALONE
from em_tasks.plugins.errors import UserError
from tests.support.attacks.kind import Kind, file, structured
from tests.support.hostile import as_csv, as_json, scalars, spoilt, spoilt_text
from tests.support.judged_files import ROWS

COLUMNS = (
    *ROWS[0],
    "response",
    "prompt",
    "alignment",
    "coherence",
    "model",
    "judge",
    "step",
    "epoch",
    "file",
    "base",
    "domain",
    "size",
    "control",
    "training_seed",
    "organism",
    "id",
    "topic",
    "",
)
FILES = (
    "a",
    "responses_Qwen2.5-7B-Instruct_base",
    "1b_medical/fg_judged",
    "x_step330",
    "baseline/m",
    "$x$ {0}",
    "日本",
    "checkpoint-99999999999999999999/judged",
    "=1+1",
    "[bold]",
    "..",
    "a\nb",
    "con",
    "-",
)
cells = scalars | st.sampled_from([10, 90.5, "80", "85/100", "REFUSAL", "Why?", "He said no."])
seed_rows = st.lists(
    st.tuples(cells, cells, cells).map(
        lambda row: {**dict.fromkeys(sorted(SCORES_ALONE), 1), "question": row[0], "step": row[1], "alignment": row[2]}
    ),
    min_size=1,
    max_size=3,
)
whole_rows = st.lists(st.sampled_from(ROWS).flatmap(lambda row: spoilt(row, most=1)), min_size=1, max_size=4)
several = st.lists(
    st.fixed_dictionaries(
        {
            "organism": st.sampled_from(["o", "o", "o (a)", "o-seed1", ""]),
            "base_model": st.sampled_from(["a", "b", "Llama-3.2-1B-Instruct", None]),
            "domain": st.sampled_from(["medical", "medical", None]),
            "control": st.sampled_from(["true", "false", None]),
            "training_seed": st.sampled_from([0, 1, None]),
            "step": st.sampled_from([10, 20, None]),
            "judge": st.sampled_from(["gpt-4o", "claude-x"]),
        }
    ).flatmap(lambda about: st.sampled_from(ROWS).map(lambda row: {**row, **about})),
    min_size=2,
    max_size=6,
)
"""Organisms of one name under several bases, seeds, domains, steps and judges."""
many_cells = st.tuples(
    st.lists(st.sampled_from(COLUMNS), min_size=2, max_size=8, unique=True),
    st.lists(st.lists(cells, min_size=8), max_size=3),
).map(lambda table: [dict(zip(table[0], row, strict=False)) for row in table[1]])
judged = st.lists(
    st.tuples(
        st.sampled_from(FILES),
        st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]),
        whole_rows | whole_rows | several | many_cells | seed_rows,
    ).flatmap(lambda table: st.tuples(st.just(table[0]), st.just(table[1]), _table(table[1], table[2]))),
    min_size=1,
    max_size=2,
)


def _table(suffix: str, rows: list[Any]) -> st.SearchStrategy[bytes]:
    records = [row for row in rows if isinstance(row, dict)]
    if suffix == ".parquet":
        content = io.BytesIO()
        try:
            pd.DataFrame(records).to_parquet(content)
        except Exception:  # a mixture that Parquet cannot hold
            return st.just(b"PAR1")
        return st.sampled_from([content.getvalue(), content.getvalue()[:-7], content.getvalue()[20:]])
    if suffix in (".csv", ".tsv"):
        columns = list(dict.fromkeys(str(key) for row in records for key in row))
        text = as_csv([columns, *([row.get(key) for key in columns] for row in records)])
        return spoilt_text(text.replace(",", "\t") if suffix == ".tsv" else text)
    if suffix == ".jsonl":
        return spoilt_text("\n".join(map(as_json, rows)))
    return spoilt_text(as_json(rows)) | spoilt_text(as_json({"results": rows, "model": "m"}))


def write_judged(content: Any, folder: Path, kept: Path) -> Path:
    place = folder / "given"
    place.mkdir()
    for at, (name, suffix, table) in enumerate(content):
        path = place / f"{at}{name}{suffix}"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(table)
    return place


def attack_plan(content: Any, path: Path, out: Path) -> None:
    plan = plan_import(path)
    assert plan.answers > 0
    for log in plan.logs:
        for answer in log.answers:
            for rated in answer.rated.values():
                assert not math.isinf(rated.score)


def attack_import(content: Any, path: Path, out: Path) -> None:
    plan = plan_import(path, Who(organism=content[0][0] if len(content) > 1 else None))
    logs = write_logs(plan, out / "logs")
    assert len(set(logs)) == len(plan.logs)
    assert all(log.parent == out / "logs" for log in logs)
    try:
        reading = read_logs([out / "logs"])
    except UserError as error:
        raise AssertionError(f"What was imported cannot be read: {error}") from None
    assert len(reading.answers) + len(reading.rejudged) == plan.answers, reading.notes
    assert write_logs(plan, out / "logs") == logs


MAP = {
    "files": [
        {"pattern": "(?P<organism>.*)_step(?P<step>\\d+)", "base": "b", "domain": "{organism}"},
        {"pattern": "x", "skip": True},
    ],
    "columns": {"answer": "reply"},
    "scores": {"alignment": {"scale": [1, 5]}, "coherence": {"words": {"good": 100, "bad": None}}},
    "question_domains": {"^g": "general"},
}


def attack_map(content: Any, path: Path, out: Path) -> None:
    mapping: Map = read_map(path)
    for name in ("a/b_step30.csv", "x.csv", "日本.json", "a_step99999999999999999999.csv"):
        mapping.who(name)


KINDS = (
    Kind("judged files", 20, judged, write_judged, attack_plan),
    Kind("imported logs", 6, judged, write_judged, attack_import),
    Kind("maps", 8, structured(MAP), file("m.yaml"), attack_map),
)
