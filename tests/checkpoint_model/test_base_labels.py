"""A base that is a folder is known by its name and fingerprint: no path of this machine gets into a log."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from em_tasks.plugins.checkpoint_model.subject import base_names, describe_model
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.checkpoints import find_checkpoint, list_runs
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows


def test_what_logs_say_of_an_organism_on_a_folder_names_no_path(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "my-model"
    shutil.copytree(TOY_MODELS / "toy-s", folder)
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16), base=str(folder))
    train(recipe, tmp_path / "runs", lambda progress: None)
    runs = str(tmp_path / "runs")
    subjects = [
        describe_model("em", "small@1", runs),
        describe_model("em", "small@base", runs),
        describe_model("em", "small@1", runs, precision="bf16"),
        describe_model("em", "small@1", runs, base=str(folder)),
        describe_model("hf", f"{runs}/small/checkpoint-1"),
        describe_model("hf", str(folder)),
    ]
    for subject in subjects:
        assert str(tmp_path) not in json.dumps(asdict(subject))
        assert subject.base.startswith("my-model")
    (name,) = base_names(list_runs(tmp_path / "runs")).values()
    assert name == "my-model@base"
    assert find_checkpoint(tmp_path / "runs", name).manifest.recipe.base == str(folder)
    assert find_checkpoint(tmp_path / "runs", f"{folder}@base").manifest.recipe.base == str(folder)
