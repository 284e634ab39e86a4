"""Folders of runs with their manifests, names of checkpoints, and names that become files."""

from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from em_tasks.plugins.safe_names import file_name, printable, without_folders
from em_tasks.trainers.run.checkpoints import find_checkpoint, foreign_manifests, list_runs, verify
from tests.support.attacks.kind import Kind, nothing
from tests.support.hostile import as_json, spoilt, spoilt_text, texts

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


KINDS = (
    Kind("runs", 16, run_folders, write_run, attack_run),
    Kind("file names", 16, st.tuples(texts | st.text(max_size=200), texts | st.text(max_size=3)), nothing, attack_name),
)
