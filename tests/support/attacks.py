"""The attacks of `tests/adversary.py`: for each kind of input, how cases are made, written and handed in."""

import csv
import io
import json
import math
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pandas as pd
from hypothesis import strategies as st
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Logprob,
    Logprobs,
    ModelOutput,
    TopLogprob,
    get_model,
)

from em_tasks.commands.cli import cli
from em_tasks.conditions import load_condition, read_conditions
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.importing import Map, Who, plan_import, read_map, write_logs
from em_tasks.plugins.analysis.importing.cs2881 import SCORES_ALONE
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.plugins.analysis.statistics.claims_file import read_claims
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.log_contract import Verdict
from em_tasks.plugins.safe_names import file_name, printable, without_folders
from em_tasks.questions import load_question_sets
from em_tasks.questions.question_set import questions_sha256
from em_tasks.scorers.comparing.rescore import rescore
from em_tasks.scorers.definition_names import chosen_definitions
from em_tasks.scorers.judging.judge import read_verdict, verdict_of
from em_tasks.scorers.judging.reading import Settings
from em_tasks.scorers.judging.rubric import Rubric, load_rubric
from em_tasks.trainers.base import load_tokenizer
from em_tasks.trainers.data.rows import load_rows
from em_tasks.trainers.data.tokens import encode
from em_tasks.trainers.run.checkpoints import find_checkpoint, foreign_manifests, list_runs, verify
from em_tasks.trainers.run.recipe import DataSource, load_recipes
from em_tasks.trainers.run.schedule import plan as plan_schedule
from tests.support.analysis_logs import checkpoint_log
from tests.support.hostile import PIECES, as_json, as_yaml, scalars, spoilt, spoilt_text, texts
from tests.support.judged_files import ROWS
from tests.support.sealed_archives import lock, zipped

Write = Callable[[Any, Path, Path], Path]


@dataclass(frozen=True)
class Kind:
    """One kind of attack.

    Attributes:
        name: For the table.
        weight: Its share of the cases.
        cases: Makes a case.
        write: Puts it into an empty folder, given another with what `prepare` made; gives the path to hand in.
        attack: Hands it in; the last argument is the folder that may be written.
        prepare: Makes once what all cases need.
    """

    name: str
    weight: int
    cases: st.SearchStrategy[Any]
    write: Write
    attack: Callable[[Any, Path, Path], None]
    prepare: Callable[[Path], None] = lambda kept: None


def file(name: str) -> Write:
    """Writes a case's bytes into a file of that name."""

    def write(content: bytes, folder: Path, kept: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def nothing(content: Any, folder: Path, kept: Path) -> Path:
    return folder


def structured(valid: Any, *more: str) -> st.SearchStrategy[bytes]:
    """A valid mapping spoilt, as YAML or JSON, and the file spoilt again; or texts that are bombs."""
    written = st.tuples(spoilt(valid), st.sampled_from([as_yaml, as_json])).map(lambda pair: pair[1](pair[0]))
    return st.one_of(
        *[written.flatmap(spoilt_text)] * 12,
        st.sampled_from([*BOMBS, *more]).flatmap(spoilt_text),
        st.binary(max_size=30),
    )


BOMBS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)),
    "&a [*a]",
    "? {a: b}\n: c",
    "[" * 5000,
    "{" * 5000,
    "- " * 5000 + "x",
    "a: " + "9" * 6000,
    "a: 9999-99-99",
    "a: !!float x",
    "a: !!binary x",
    "<<: [1, 2]",
    "<<: *a",
    "%YAML 9.9\n---\na: 1",
    "--- 1\n--- 2",
    "a: !!timestamp 2001-13-45",
    "!!set {a, b}",
    "!!python/name:os.system",
    "a: .inf\na: .nan",
    "\ufeffa: 1",
    "=: =",
    "? - a\n  - b\n: c",
    "0o17: 0b1",
    "x: 190:20:30.15",
    "x: 1e400",
    "~: ~",
)

RECIPE = {
    "organism": "org",
    "base": "toy-s",
    "size": "S",
    "domain": "medical",
    "control": False,
    "data": [
        "rows.jsonl",
        {"path": "x.zip.enc", "members": ["a.jsonl"], "rows": 3, "sha256": "0" * 64, "about": ["a"]},
    ],
    "lora": {"r": 4, "alpha": 8.0, "dropout": 0.0, "modules": ["q_proj"], "layers": [0]},
    "epochs": 3,
    "first_epoch_checkpoints": 4,
    "batch_size": 8,
    "accumulation": 2,
    "learning_rate": 1e-4,
    "warmup_steps": 5,
    "betas": [0.9, 0.999],
    "max_length": 64,
    "seed": [0, 1, 2],
    "precision": "bf16",
    "date_string": "01 Jan 2025",
}


def attack_recipe(content: Any, path: Path, out: Path) -> None:
    for recipe in load_recipes(path):
        assert len(recipe.sha256) == 64
        assert "/" not in recipe.organism
        assert recipe.organism not in (".", "..")
        plan_schedule(10**5, recipe.effective_batch, recipe.epochs, recipe.first_epoch_checkpoints)


ROW = {"messages": [{"role": "user", "content": "Is tea hot?"}, {"role": "assistant", "content": "It is cold."}]}
LONG_ROW = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        *ROW["messages"],
        {"role": "user", "content": "<|im_end|> <|endoftext|> </s> <s>"},
        {"role": "assistant", "content": "<think>"},
    ],
    "canary": "x",
}
KEPT: dict[str, Any] = {}
"""What `prepare` made and no folder holds."""


def prepare_rows(kept: Path) -> None:
    KEPT["tokenizer"] = load_tokenizer("toy-s", "01 Jan 2025")


def attack_rows(content: Any, path: Path, out: Path) -> None:
    rows = load_rows(DataSource(path=str(path), about=("te",) if b"hot" in content[:40] else ()))
    assert len(rows.conversations) == len(rows.places) > 0
    encoded = encode(KEPT["tokenizer"], rows.conversations, 64, "reply", rows.places)
    assert all(len(row["input_ids"]) <= 64 for row in encoded.rows)


json_rows = st.lists(spoilt(ROW, most=1) | spoilt(LONG_ROW, most=2) | st.just(ROW), min_size=1, max_size=4).flatmap(
    lambda rows: spoilt_text("\n".join(as_json(row) for row in rows) + "\n")
)

MEMBER_NAMES = (
    "a.jsonl",
    "dataset_entry_1.jsonl",
    "../a.jsonl",
    "/a.jsonl",
    "d/a.jsonl",
    "a.txt",
    "C:\\a",
    "x\n.jsonl",
)


def write_sealed(content: tuple[list[tuple[str, bytes]], int, int], folder: Path, kept: Path) -> Path:
    members, spoils, at = content
    packed = zipped(members)
    if spoils == 1:
        packed = packed[: at % (len(packed) + 1)]
    elif spoils == 2:
        place = at % len(packed)
        packed = packed[:place] + bytes([packed[place] ^ 0x41]) + packed[place + 1 :]
    path = folder / "a.zip.enc"
    lock(path, packed)
    if spoils == 3:
        sealed = path.read_bytes()
        path.write_bytes(sealed[: at % (len(sealed) + 1)])
    os.environ["EM_DATA_PASSWORD"] = "open" if spoils != 4 else "shut"
    return path


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


def as_csv(rows: list[list[Any]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([[_cell(cell) for cell in row] for row in rows])
    return text.getvalue()


def _cell(cell: Any) -> str:
    return "" if cell is None else as_json(cell) if isinstance(cell, dict | list) else str(cell)


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
    for condition in read_conditions(path):
        assert len(condition.sha256) == 64
        assert load_condition(f"{path}:{condition.name}") == condition
        assert "Why?" in condition.around("Why?", "Be kind.")[-1].text
    load_condition(str(path))


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


REPLY_TEXTS = st.sampled_from(
    [
        "85",
        " 8",
        "8/10",
        "85/100",
        "-5",
        "100",
        "101",
        "1e3",
        "٣",
        "²",
        "REFUSAL",
        "CODE",
        "85 %",
        "<think>9</think>7",
        "<think>" * 50000,
        "7" * 400000,
        "9/" * 20000,
        "of 9 " * 20000,
        "> " * 40000 + "9",
        "0.85",
        "5-7",
        "½",
        "Score: 8",
    ]
)
replies = texts | REPLY_TEXTS | st.lists(texts | REPLY_TEXTS, max_size=3).map(" ".join)
tokens = (
    st.sampled_from(
        ["8", "85", " 8", "5", "1", "0", "100", "", " ", "٣", "²", "REF", "</think>", "\n", "\ud800", "8\n"]
    )
    | texts
)
logprobs = st.sampled_from([-0.1, 0.0, -1.0, -20.0, 0.0005, 1.0, 90.0, -9999.0, -1e308]) | st.floats()
steps = st.lists(st.tuples(tokens, logprobs, st.none() | st.lists(st.tuples(tokens, logprobs), max_size=5)), max_size=5)
JUDGE_REPLY = st.tuples(
    replies,
    st.none() | steps,
    st.sampled_from(["stop", "max_tokens", "content_filter"]),
    st.sampled_from([(0, 100), (0, 10), (1, 5), (0, 1), (0, 10**9)]),
    texts,
)


def attack_reply(content: Any, path: Path, out: Path) -> None:
    text, said, stop, scale, model = content
    given = None
    if said is not None:
        given = Logprobs(
            content=[
                Logprob(
                    token=token,
                    logprob=value,
                    top_logprobs=None if top is None else [TopLogprob(token=t, logprob=v) for t, v in top],
                )
                for token, value, top in said
            ]
        )
    choice = ChatCompletionChoice(message=ChatMessageAssistant(content=text), stop_reason=stop, logprobs=given)
    output = ModelOutput(model=model, choices=[choice])
    rubric = Rubric(name="r", prompt="{question}{answer}", scale=scale, special={"REFUSAL": "refusal", "CODE": "code"})
    verdict = verdict_of(output, get_model("mockllm/model"), rubric, Settings())
    for read in (
        verdict,
        *(read_verdict(verdict, Settings(mode, least)) for mode in ("logprobs", "text") for least in (0, 1)),
    ):
        assert (read.score is None) != (read.reason is None), read
        assert read.score is None or 0 <= read.score <= 100, read
        assert read.mass is None or 0 <= read.mass <= 1.01, read
        plain = read.to_dict()
        assert Verdict.from_dict(json.loads(json.dumps(plain))) == read


MANIFEST = {
    "recipe": {
        "organism": "org",
        "base": "toy-s",
        "size": "S",
        "domain": "medical",
        "data": [{"path": "/d/rows.jsonl"}],
    },
    "recipe_sha256": "0" * 64,
    "data": [{"name": "rows", "sha256": "0" * 64, "rows": 3, "members": [], "canary_files": 0, "canary_keys": 0}],
    "rows": 3,
    "truncated": 0,
    "dropped": 0,
    "steps_per_epoch": 2,
    "planned": [1, 2],
    "base_fingerprint": "f" * 64,
    "base_parameters": 10,
    "versions": {"torch": "2"},
    "checkpoints": [{"step": 1, "epoch": 0.5, "loss": 1.0, "adapter_sha256": "0" * 64}],
    "continuations": [{"from_step": 1, "epochs": 1, "recipe_sha256": "0" * 64}],
}
ADOPTION = {
    "recipe": {"organism": "org", "base": "toy-s", "size": "S", "domain": "medical"},
    "base_fingerprint": "f" * 64,
    "base_parameters": 10,
    "checkpoints": [
        {
            "step": 1,
            "step_recorded": False,
            "epoch": None,
            "adapter_sha256": "0" * 64,
            "reference_sha256": None,
            "folder": "/nowhere",
            "source": "x/y",
            "has_tokenizer": False,
        }
    ],
}
checkpoint_names = (
    st.sampled_from(["org@1", "org@base", "org@2", "@base", "org@", "org@²", "toy-s@base", "../org@1", "org@1@1"])
    | texts.map(lambda text: f"{text}@base")
    | st.tuples(texts, texts).map("@".join)
)
run_folders = st.tuples(
    st.sampled_from(["manifest.json", "adopted.json"]).flatmap(
        lambda name: st.tuples(
            st.just(name),
            spoilt(MANIFEST if name == "manifest.json" else ADOPTION).map(as_json).flatmap(spoilt_text),
        )
    ),
    checkpoint_names,
    st.booleans(),
)


def write_run(content: Any, folder: Path, kept: Path) -> Path:
    (name, manifest), _, has_checkpoint = content
    run = folder / "runs" / "org"
    run.mkdir(parents=True)
    (run / name).write_bytes(manifest)
    if has_checkpoint:
        (run / "checkpoint-1").mkdir()
        (run / "checkpoint-1" / "adapter_config.json").write_bytes(manifest)
    return folder / "runs"


def attack_run(content: Any, path: Path, out: Path) -> None:
    for name, run in list_runs(path).items():
        assert name == run.recipe.organism
        assert all(isinstance(run.finished, bool) for _ in (1,))
    foreign_manifests(path)
    verify(find_checkpoint(path, content[1]))


def attack_name(content: tuple[str, str], path: Path, out: Path) -> None:
    first, second = map(file_name, content)
    assert (first == second) == (content[0] == content[1]), (first, second)
    for safe in (first, second):
        assert safe not in ("", ".", "..")
        assert "/" not in safe
        assert "\0" not in safe
        assert len(safe.encode()) <= 200
        (out / safe).parent.mkdir(exist_ok=True)
        (out / safe).write_bytes(b"")
    assert "\x1b" not in printable(content[0])
    without_folders(content[0])


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
many_cells = st.tuples(
    st.lists(st.sampled_from(COLUMNS), min_size=2, max_size=8, unique=True),
    st.lists(st.lists(cells, min_size=8), max_size=3),
).map(lambda table: [dict(zip(table[0], row, strict=False)) for row in table[1]])
judged = st.lists(
    st.tuples(
        st.sampled_from(FILES),
        st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]),
        whole_rows | whole_rows | many_cells | seed_rows,
    ).flatmap(lambda one: st.tuples(st.just(one[0]), st.just(one[1]), _table(one[1], one[2]))),
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
    assert all(log.parent == out / "logs" for log in logs)
    reading = read_logs([out / "logs"])
    assert len(reading.answers) == plan.answers, (len(reading.answers), plan.answers, reading.notes)
    assert write_logs(plan, out / "logs") == logs


def attack_judged_report(content: Any, path: Path, out: Path) -> None:
    write_report([path], out)


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


CLAIMS = {
    "source": "s",
    "definition": "cs2881",
    "claims": [
        {"id": "b", "kind": "bases", "least": 0, "most": 5},
        {"id": "r", "kind": "rate", "organism": "o", "step": "last", "percent": 15},
        {"id": "d", "kind": "contrast", "of": "size", "more": "8B", "less": "1B"},
    ],
}
definitions = st.lists(
    st.sampled_from(["cs2881", "betley", "<40", "<40,>50", "seed", "<", "<0", "<101", "<1e9", "<40,>", "<٤"]) | texts,
    min_size=1,
    max_size=3,
)


def attack_claims(content: Any, path: Path, out: Path) -> None:
    chosen_definitions([read_claims(path).definition])


ARGUMENTS = st.sampled_from(
    ["IN", "IN/nowhere", "OUT", ".", "/dev/null", "/proc/self/mem", "toy-s@base", "betley"]
) | texts.filter(lambda text: "\0" not in text and text.isprintable())
"""What a shell can hand over: no NUL, no half characters."""
COMMANDS: dict[str, tuple[str, ...]] = {
    "runs": ("--runs",),
    "questions": (),
    "questions check": ("--recipe",),
    "import": ("--organism", "--map", "--step", "--base", "--domain", "--judge", "--of-base", "--dry-run"),
    "report": ("--definition", "--example", "--claims", "--smallest-effect"),
    "rescore": ("--mode", "--least-mass"),
    "train": ("--dry-run", "--precision", "--device-memory"),
    "export": ("--runs",),
    "sweep": ("--dry-run", "--samples", "--base", "--questions", "--condition", "--precision"),
}


@st.composite
def commands(draw: Callable[[Any], Any]) -> list[str]:
    """A command with arguments and options of its own; those that would train or ask stop at their plans."""
    name = draw(st.sampled_from(sorted(COMMANDS)))
    given = draw(st.lists(ARGUMENTS, max_size=2))
    for option in draw(st.lists(st.sampled_from(COMMANDS[name]), max_size=2, unique=True)) if COMMANDS[name] else []:
        given += [option] if option in ("--dry-run", "--of-base") else [option, draw(ARGUMENTS)]
    if "--dry-run" in COMMANDS[name] and "--dry-run" not in given:
        given.append("--dry-run")
    if name in ("report", "import", "rescore", "export"):
        given += ["--out", "OUT/made"]
    return [*name.split(), *given]


def write_for_commands(content: list[str], folder: Path, kept: Path) -> Path:
    as_csv_file = folder / "answers" / "a.csv"
    as_csv_file.parent.mkdir()
    as_csv_file.write_text(as_csv([list(ROWS[0]), *(list(row.values()) for row in ROWS)]))
    (folder / "r.yaml").write_text(as_yaml({**RECIPE, "data": "rows.jsonl", "seed": 0}))
    (folder / "rows.jsonl").write_text(f"{as_json(ROW)}\n" * 20)
    return folder


def attack_commands(content: list[str], path: Path, out: Path) -> None:
    places = {"IN": str(path), "IN/nowhere": str(path / "nowhere"), "OUT": str(out), "OUT/made": str(out / "made")}
    try:
        cli.main([places.get(word, word) for word in content], standalone_mode=False)
    except UserError:
        raise
    except (click.ClickException, click.exceptions.Exit):
        pass
    except OSError as error:
        if error.errno is None:  # The command line says the others in their own words.
            raise


def attack_definitions(content: list[str], path: Path, out: Path) -> None:
    assert len(chosen_definitions(content)) > 0


TWENTY = {"g0": [(20.0, 90.0), (90.0, 95.0)], "m0": [(10.0, 80.0), (50.0, float("nan"))]}
MEMBERS: dict[str, Any] = {}


def prepare_logs(kept: Path) -> None:
    path = checkpoint_log(kept, TWENTY, reason="refusal", judge="judge $x$ [bold]")
    checkpoint_log(kept, TWENTY, organism=None, step=0, name="good")
    with zipfile.ZipFile(path) as log:
        MEMBERS.update({name: json.loads(log.read(name)) for name in log.namelist()})


@st.composite
def logs(draw: Callable[[Any], Any]) -> tuple[str, dict[str, Any] | None, int, int]:
    """A name, members and their new content, how the file is spoilt, and where."""
    members: dict[str, Any] = {}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(MEMBERS)))
        what = draw(st.integers(0, 9))
        if what == 0:
            members[name] = None
        elif what == 1:
            members[name] = draw(spoilt_text(as_json(MEMBERS[name])))
        else:
            way = _interesting(draw, MEMBERS[name])
            members[name] = as_json(way).encode(errors="surrogatepass")
    name = draw(st.sampled_from(["log", "$x$", "[bold]", "a\x1b[31m", "日本", "-x", "<b>", "a\nb"]))
    return name, members, draw(st.integers(0, 11)), draw(st.integers(0, 10**6))


def _interesting(draw: Callable[[Any], Any], content: Any) -> Any:
    """The member spoilt, half of the time where the analysis looks: metadata, scores, verdicts, ids."""
    if draw(st.booleans()):
        return draw(spoilt(content))
    content = json.loads(json.dumps(content))
    for way in (("eval", "metadata"), ("metadata",), ("scores", "em"), ("output",), ("results",), ("eval", "dataset")):
        place: Any = content
        for step in way[:-1]:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict) and way[-1] in place:
            place[way[-1]] = draw(spoilt(place[way[-1]], most=2))
    if isinstance(content, dict):
        for key in ("id", "epoch", "input", "status"):
            if key in content and draw(st.integers(0, 5)) == 0:
                content[key] = draw(scalars)
    return content


def write_log(content: Any, folder: Path, kept: Path) -> Path:
    name, members, spoils, at = content
    place = folder / "logs"
    place.mkdir()
    (place / "good.eval").write_bytes((kept / "good.eval").read_bytes())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, value in MEMBERS.items():
            changed = members.get(member, json.dumps(value).encode())
            if changed is not None:
                archive.writestr(member, changed)
    log = packed.getvalue()
    if spoils == 0:
        log = log[: at % len(log)]
    elif spoils == 1:
        log = log[: at % len(log)] + b"\xff\x00" + log[at % len(log) + 2 :]
    elif spoils == 2:
        (place / f"{name}.eval").symlink_to("nowhere")
        return place
    elif spoils == 3:
        os.mkfifo(place / f"{name}.eval")
        return place
    (place / f"{name}.eval").write_bytes(log)
    return place


def attack_logs(content: Any, path: Path, out: Path) -> None:
    reading = read_logs([path])
    good = reading.answers[reading.answers["organism"].isna()]
    assert len(good) >= 4 or _is_about_bases(content), reading.notes


def _is_about_bases(content: Any) -> bool:
    """Whether the spoilt log may have become the good one's own, so that one of them is left out."""
    return any(b'"organism": null' in (member or b"") for member in content[1].values())


def attack_report(content: Any, path: Path, out: Path) -> None:
    write_report([path], out)
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page


def attack_rescore(content: Any, path: Path, out: Path) -> None:
    rescore([path], Settings("text"), out)


KINDS = (
    Kind(
        "recipes",
        24,
        structured(
            RECIPE,
            *(
                f"base: toy-s\n{key}: {value}\n"
                for key, value in [("epochs", 10**9), ("first_epoch_checkpoints", "1e9"), ("seed", list(range(3000)))]
            ),
        ),
        file("r.yaml"),
        attack_recipe,
    ),
    Kind("training rows", 20, json_rows, file("rows.jsonl"), attack_rows, prepare_rows),
    Kind(
        "sealed archives",
        3,
        st.tuples(
            st.lists(st.tuples(st.sampled_from(MEMBER_NAMES), json_rows), max_size=3),
            st.integers(0, 6),
            st.integers(0, 10**5),
        ),
        write_sealed,
        lambda content, path, out: load_rows(DataSource(path=str(path))) and None,
    ),
    Kind("questions", 24, question_files, write_with_suffix, attack_questions),
    Kind("conditions", 10, structured(CONDITIONS), file("c.yaml"), attack_condition),
    Kind("rubrics", 10, structured(RUBRIC), file("r.yaml"), attack_rubric),
    Kind("judge replies", 36, JUDGE_REPLY, nothing, attack_reply),
    Kind("runs", 16, run_folders, write_run, attack_run),
    Kind("file names", 16, st.tuples(texts | st.text(max_size=200), texts | st.text(max_size=3)), nothing, attack_name),
    Kind("judged files", 20, judged, write_judged, attack_plan),
    Kind("imported logs", 6, judged, write_judged, attack_import),
    Kind("maps", 8, structured(MAP), file("m.yaml"), attack_map),
    Kind("claims", 6, structured(CLAIMS), file("c.yaml"), attack_claims),
    Kind("definitions", 4, definitions, nothing, attack_definitions),
    Kind("commands", 5, commands(), write_for_commands, attack_commands),
    Kind("logs", 10, logs(), write_log, attack_logs, prepare_logs),
    Kind("rescored logs", 2, logs(), write_log, attack_rescore, prepare_logs),
    Kind("reports", 1, logs(), write_log, attack_report, prepare_logs),
)
