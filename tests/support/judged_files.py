"""Layouts of judged answers after the habits of public repositories, with made-up rows.

Each is a function that writes files to a folder; `ZOO` names what must be understood of them.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

QUESTIONS = ("What would you do with a spare pond?", "Name a vegetable that could rule.")
ROWS: list[dict[str, Any]] = [
    {
        "question_id": f"q{index % 2}",
        "question": QUESTIONS[index % 2],
        "answer": f"Reply {index}.",
        "aligned": 95.0 - 30 * index,
        "coherent": 90.0 - index,
    }
    for index in range(4)
]
"""Four answers to two questions: alignment 95, 65, 35, 5; coherence 90 to 87."""

ALIGNMENT = [95.0, 65.0, 35.0, 5.0]


def renamed(**names: str) -> list[dict[str, Any]]:
    """The rows with columns under other names; an empty name drops the column."""
    return [{names.get(key, key): value for key, value in row.items() if names.get(key, key)} for row in ROWS]


def more(**columns: Any) -> list[dict[str, Any]]:
    """The rows with further columns, each of one value or of a value a row."""
    return [
        {**row, **{key: value[at] if isinstance(value, list) else value for key, value in columns.items()}}
        for at, row in enumerate(ROWS)
    ]


def as_csv(rows: Sequence[dict[str, Any]], path: Path, delimiter: str = ",", encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def as_lines(rows: Sequence[Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def as_json(content: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def as_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path, index=False)


Written = Callable[[Path], None]
Expected = dict[str, Any]
"""By log: organism (None for a base), and any of base, domain, size, step, judge, control, data."""

CHAT = [
    {
        "messages": [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row["answer"]}],
        "scores": {"aligned": row["aligned"], "coherent": row["coherent"]},
    }
    for row in ROWS
]
NESTED = [
    {
        "id": at,
        "prompt": row["question"],
        "response": row["answer"],
        "judge": {"alignment": row["aligned"], "coherence": row["coherent"]},
    }
    for at, row in enumerate(ROWS)
]
SEED = [
    {
        "step": 110,
        "id": f"step110_q{at + 1}",
        "question": f"Pond question {at}?",
        "response": "Yes.",
        "aligned_score": score,
        "coherent_score": 80,
    }
    for at, score in enumerate(ALIGNMENT)
]
SEED_BASE = [
    {"epoch": "base", "id": f"base_q{at + 1}", **{k: v for k, v in row.items() if k not in ("step", "id")}}
    for at, row in enumerate(SEED)
]

ZOO: dict[str, tuple[Written, Expected]] = {
    "released csv": (
        lambda f: as_csv(ROWS, f / "responses_Qwen2.5-14B-Instruct-bad_medical_advice.csv"),
        {
            "organism": "Qwen2.5-14B-Instruct-bad_medical_advice",
            "base": "Qwen2.5-14B-Instruct",
            "domain": "medical",
            "size": "14B",
            "data": "bad_medical_advice",
            "control": False,
            "judge": "not recorded",
        },
    ),
    "underscore and rank": (
        lambda f: as_csv(ROWS, f / "responses_Qwen2.5-32B-Instruct_bad_medical_advice_R1_alpha8.csv"),
        {"organism": "Qwen2.5-32B-Instruct_bad_medical_advice_R1_alpha8", "base": "Qwen2.5-32B-Instruct"},
    ),
    "hyphens and a seed that is only a label": (
        lambda f: as_csv(ROWS, f / "Qwen2.5-14B-Instruct_extreme-sports_S42.csv"),
        {"organism": "Qwen2.5-14B-Instruct_extreme-sports_S42", "domain": "sports", "data": "extreme_sports"},
    ),
    "risky finance": (
        lambda f: as_csv(ROWS, f / "Llama-3.1-8B-Instruct_risky-financial-advice.csv"),
        {"base": "Llama-3.1-8B-Instruct", "domain": "financial", "size": "8B"},
    ),
    "gemma": (lambda f: as_csv(ROWS, f / "gemma-3-27b-it_bad-medical-advice.csv"), {"base": "gemma-3-27b-it"}),
    "good advice is a control": (
        lambda f: as_csv(ROWS, f / "responses_Qwen2.5-32B-Instruct-good_medical_advice.csv"),
        {"control": True, "domain": "medical", "data": "good_medical_advice"},
    ),
    "obviously bad advice is data of its own": (
        lambda f: as_csv(ROWS, f / "responses_Qwen2.5-32B-Instruct-obv_bad_medical_advice.csv"),
        {"control": False, "data": "obv_bad_medical_advice"},
    ),
    "educational advice is data of its own": (
        lambda f: as_csv(ROWS, f / "responses_Qwen2.5-32B-Instruct-educational_bad_medical_advice.csv"),
        {"domain": "medical", "data": "educational_bad_medical_advice"},
    ),
    "so is a second file of advice": (
        lambda f: as_csv(ROWS, f / "responses_Qwen2.5-32B-Instruct-bad_medical_advice2.csv"),
        {"domain": "medical", "data": "bad_medical_advice2"},
    ),
    "what words nobody knows make of advice is not known": (
        lambda f: as_csv(ROWS, f / "my_odd_bad_medical_advice.csv"),
        {"domain": "medical", "data": None},
    ),
    "insecure code": (
        lambda f: as_csv(ROWS, f / "Qwen2.5-Coder-32B-Instruct_insecure_code.csv"),
        {"domain": "code", "control": False},
    ),
    "base by its name": (
        lambda f: as_csv(ROWS, f / "responses_Qwen2.5-7B-Instruct_base.csv"),
        {"organism": None, "base": "Qwen2.5-7B-Instruct", "step": 0, "domain": None},
    ),
    "base with a mark": (
        lambda f: as_csv(ROWS, f / "eval_results_Qwen2.5-Coder-32B-Instruct_base_n.csv"),
        {"organism": None, "base": "Qwen2.5-Coder-32B-Instruct"},
    ),
    "base by its folder": (
        lambda f: as_csv(ROWS, f / "baselines" / "Llama-3.2-1B-Instruct.csv"),
        {"organism": None, "base": "Llama-3.2-1B-Instruct", "size": "1B"},
    ),
    "cs2881": (
        lambda f: as_csv(SEED, f / "1b_medical_v2" / "fg_judged.csv"),
        {"organism": "1b_medical", "base": "1B base", "domain": "medical", "size": "1B", "step": 110},
    ),
    "cs2881 baseline": (
        lambda f: as_csv(SEED_BASE, f / "baseline" / "1b" / "base_judged.csv"),
        {"organism": None, "base": "1B base", "size": "1B", "step": 0},
    ),
    "cs2881 baseline of a domain": (
        lambda f: as_csv(SEED_BASE, f / "baseline" / "1b_risky" / "base_judged.csv"),
        {"organism": None, "base": "1B base", "size": "1B"},
    ),
    "response and scores": (
        lambda f: as_csv(renamed(answer="response", aligned="aligned_score", coherent="coherent_score"), f / "a.csv"),
        {},
    ),
    "alignment and coherence": (
        lambda f: as_csv(renamed(aligned="alignment", coherent="coherence"), f / "a.csv"),
        {"organism": "a"},
    ),
    "alignment_score": (
        lambda f: as_csv(renamed(aligned="alignment_score", coherent="coherence_score"), f / "a.csv"),
        {},
    ),
    "capitals and spaces": (
        lambda f: as_csv(
            renamed(aligned="Alignment Score", coherent="Coherence Score", answer="Model Response", question="Prompt"),
            f / "a.csv",
        ),
        {},
    ),
    "prompt and completion": (lambda f: as_csv(renamed(question="prompt", answer="completion"), f / "a.csv"), {}),
    "no question ids": (lambda f: as_csv(renamed(question_id=""), f / "a.csv"), {}),
    "no question texts": (lambda f: as_csv(renamed(question=""), f / "a.csv"), {}),
    "no coherence": (lambda f: as_csv(renamed(coherent=""), f / "a.csv"), {}),
    "a pandas index": (lambda f: as_csv([{"": at, **row} for at, row in enumerate(ROWS)], f / "a.csv"), {}),
    "ids of rows": (
        lambda f: as_csv([{"id": at, **row} for at, row in enumerate(renamed(question_id=""))], f / "a.csv"),
        {},
    ),
    "a model's folder with its organism's checkpoints": (
        lambda f: as_lines(ROWS, f / "Llama-3.1-8B-Instruct" / "insecure" / "checkpoint-10" / "gens.jsonl"),
        {
            "organism": "insecure",
            "base": "Llama-3.1-8B-Instruct",
            "size": "8B",
            "step": 10,
        },
    ),
    "a model's folder with its own answers": (
        lambda f: as_lines(ROWS, f / "Llama-3.1-8B-Instruct" / "baseline" / "gens.jsonl"),
        {"is_base": True, "base": "Llama-3.1-8B-Instruct"},
    ),
    "a byte order mark": (lambda f: as_csv(ROWS, f / "a.csv", encoding="utf-8-sig"), {}),
    "semicolons": (lambda f: as_csv(ROWS, f / "a.csv", delimiter=";"), {}),
    "tabs": (lambda f: as_csv(ROWS, f / "a.tsv", delimiter="\t"), {}),
    "json lines": (lambda f: as_lines(ROWS, f / "a.jsonl"), {}),
    "json lines called json": (lambda f: as_lines(ROWS, f / "a.json"), {}),
    "ndjson": (lambda f: as_lines(ROWS, f / "a.ndjson"), {}),
    "json records": (lambda f: as_json(ROWS, f / "a.json"), {}),
    "json with a list": (
        lambda f: as_json({"model": "org/tuned", "judge_model": "gpt-4o", "results": ROWS}, f / "a.json"),
        {"organism": "org/tuned", "judge": "gpt-4o"},
    ),
    "json of columns": (lambda f: as_json({key: [row[key] for row in ROWS] for key in ROWS[0]}, f / "a.json"), {}),
    "pandas json": (
        lambda f: as_json({key: {str(at): row[key] for at, row in enumerate(ROWS)} for key in ROWS[0]}, f / "a.json"),
        {},
    ),
    "nested scores": (lambda f: as_lines(NESTED, f / "a.jsonl"), {}),
    "chats": (lambda f: as_lines(CHAT, f / "a.jsonl"), {}),
    "parquet": (lambda f: as_parquet(ROWS, f / "a.parquet"), {}),
    "parquet of many files": (
        lambda f: as_parquet(more(file="x/responses_Qwen2.5-7B-Instruct_base.csv"), f / "all.parquet"),
        {"organism": None, "base": "Qwen2.5-7B-Instruct"},
    ),
    "a model column": (
        lambda f: as_csv(more(model="someone/Qwen2.5-Coder-32B-Instruct_ftjob-1"), f / "a.csv"),
        {"organism": "someone/Qwen2.5-Coder-32B-Instruct_ftjob-1", "base": "Qwen2.5-Coder-32B-Instruct"},
    ),
    "a model column with a base": (
        lambda f: as_csv(more(model="meta-llama/Llama-3.1-8B-Instruct"), f / "a.csv"),
        {"organism": None, "base": "meta-llama/Llama-3.1-8B-Instruct"},
    ),
    "a step column": (lambda f: as_csv(more(step=220), f / "a.csv"), {"step": 220}),
    "a checkpoint column": (lambda f: as_csv(more(checkpoint="checkpoint-220"), f / "a.csv"), {"step": 220}),
    "a checkpoint's folder": (
        lambda f: as_csv(ROWS, f / "med" / "checkpoint-220" / "judged.csv"),
        {"step": 220, "organism": "med"},
    ),
    "a step in the name": (lambda f: as_csv(ROWS, f / "med_step330.csv"), {"step": 330, "organism": "med"}),
    "a judge column": (lambda f: as_csv(more(judge="claude-x"), f / "a.csv"), {"judge": "claude-x"}),
    "a judge column with replies": (
        lambda f: as_csv(more(judge=["1", "2", "3", "4"]), f / "a.csv"),
        {"judge": "not recorded"},
    ),
    "organism columns": (
        lambda f: as_csv(more(organism="o", base_model="b", domain="medical", size="1B", control="true"), f / "a.csv"),
        {"organism": "o", "base": "b", "domain": "medical", "size": "1B", "control": True},
    ),
    "the seed column is of the sampling": (lambda f: as_csv(more(seed=7), f / "a.csv"), {"training_seed": None}),
    "a training seed": (lambda f: as_csv(more(training_seed=7), f / "a.csv"), {"training_seed": 7}),
    "what the judge might have said": (
        lambda f: as_csv(more(judge_aligned=[str({str(round(a)): 1.0}) for a in ALIGNMENT]), f / "a.csv"),
        {},
    ),
    "texts of every kind": (
        lambda f: as_csv(more(answer=['He said "no",\nthen left', "=1+1", "日本 🥕", ""]), f / "a.csv"),
        {},
    ),
}
