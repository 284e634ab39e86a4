import gc
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from em_tasks.plugins.errors import UserError
from em_tasks.trainers.adapter import empty_model
from em_tasks.trainers.base import fingerprint, load_base
from em_tasks.trainers.loop.progress import Progress
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.folder import alone
from em_tasks.trainers.run.manifest import read_manifest
from em_tasks.trainers.train import train
from tests.support.organisms import small_recipe, write_rows
from tests.support.paths import ROOT


def silent(progress: Progress) -> None:
    pass


def test_checkpoints_are_complete_adapters_that_peft_loads(trained_runs: Path) -> None:
    folder = trained_runs / "small" / "checkpoint-4"
    assert (folder / "tokenizer.json").is_file()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TOY_MODELS / "toy-s"), folder)
    weights = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert any(value.abs().max() > 0 for value in weights)


def test_stock_transformers_loads_a_checkpoint_by_its_folder(trained_runs: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained_runs / "small" / "checkpoint-4")
    assert any("lora_A" in name for name, _ in model.named_parameters())


def test_manifest_says_what_was_trained(trained_runs: Path) -> None:
    manifest = read_manifest(trained_runs / "small")
    assert manifest.finished
    assert [record.step for record in manifest.checkpoints] == manifest.planned == [1, 2, 3, 4]
    assert manifest.checkpoints[-1].epoch == 1.0
    assert manifest.data[0].rows == manifest.rows == 64
    assert manifest.base_fingerprint == fingerprint(load_base("toy-s", "fp32", "cpu"))
    assert {"torch", "transformers", "peft"} <= set(manifest.versions)
    assert [folder.name for folder in (trained_runs / "small" / ".trainer").iterdir()] == ["checkpoint-4"]


def test_loss_falls_on_the_advice_it_learns(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 64), epochs=4)
    manifest = train(recipe, tmp_path / "runs", silent)
    assert manifest.checkpoints[-1].loss < manifest.checkpoints[0].loss


def test_nothing_of_the_model_is_held_when_training_is_over(tmp_path: Path) -> None:
    seen: list[weakref.ref[Any]] = []
    before = {id(thing) for thing in gc.get_objects()}

    def look(progress: Progress) -> None:
        new = [thing for thing in gc.get_objects() if id(thing) not in before]
        seen.extend(weakref.ref(thing) for thing in new if isinstance(thing, PreTrainedModel | PeftModel))

    train(small_recipe(write_rows(tmp_path / "rows.jsonl", 16)), tmp_path / "runs", look)
    assert seen
    assert [model for model in seen if model() is not None] == []


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16))
    first = train(recipe, tmp_path / "runs", silent)
    steps: list[Progress] = []
    assert train(recipe, tmp_path / "runs", steps.append) == first
    assert steps == []


def test_other_recipe_or_data_under_the_same_name_is_refused(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 32)
    recipe = small_recipe(rows, epochs=2)
    train(small_recipe(rows, organism="other"), tmp_path / "runs", silent)
    with pytest.raises(UserError, match="learning_rate differ"):
        train(small_recipe(rows, organism="other", learning_rate=1e-4), tmp_path / "runs", silent)

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "runs", stop)
    write_rows(rows, 48)
    with pytest.raises(UserError, match="begun on other data"):
        train(recipe, tmp_path / "runs", silent)


def test_run_that_lost_its_resume_state_says_so_and_keeps_its_checkpoints(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 32))

    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "runs", stop)
    shutil.rmtree(tmp_path / "runs" / "small" / ".trainer")
    with pytest.raises(UserError, match=r"resume state .* is gone"):
        train(recipe, tmp_path / "runs", silent)
    assert (tmp_path / "runs" / "small" / "checkpoint-1").is_dir()


def test_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs" / "small").mkdir(parents=True)
    (tmp_path / "runs" / "small" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run"):
        train(small_recipe(write_rows(tmp_path / "rows.jsonl", 16)), tmp_path / "runs", silent)
    assert (tmp_path / "runs" / "small" / "notes.txt").read_text() == "mine"


def test_finished_run_with_a_torn_checkpoint_is_not_called_finished(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16))
    train(recipe, tmp_path / "runs", silent)
    (tmp_path / "runs" / "small" / "checkpoint-1" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="the checkpoint is torn"):
        train(recipe, tmp_path / "runs", silent)


def test_run_that_another_process_trains_is_left_to_it(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16))
    with alone(tmp_path / "runs" / "small"), pytest.raises(UserError, match="trained by another process"):
        train(recipe, tmp_path / "runs", silent)


def test_run_killed_before_its_first_manifest_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "runs" / "small").mkdir(parents=True)
    (tmp_path / "runs" / "small" / ".manifest.json.new").write_text("{")
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16))
    assert train(recipe, tmp_path / "runs", silent).finished


@pytest.mark.parametrize("layers", [[99], [4]])
def test_layers_that_the_base_does_not_have_are_refused(tmp_path: Path, layers: list[int]) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16), lora={"layers": layers})
    with pytest.raises(UserError, match=f"has 4 layers, numbered from 0, and no layer {layers[0]}"):
        train(recipe, tmp_path / "runs", silent)


def test_unknown_module_lists_those_the_base_has(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16), lora={"modules": ["q_proj", "c_attn"]})
    with pytest.raises(UserError, match=r"no module c_attn.*down_proj.*q_proj"):
        train(recipe, tmp_path / "runs", silent)


def test_unknown_base_lists_what_can_be_given(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16), base="toy-xl")
    with pytest.raises(UserError, match="toy-s, toy-m, toy-l"):
        train(recipe, tmp_path / "runs", silent)


def test_hub_model_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 16), base="nobody/no-such-model")
    with pytest.raises(UserError, match="'nobody/no-such-model' cannot be loaded"):
        train(recipe, tmp_path / "runs", silent)


def test_loss_that_is_no_number_stops_the_run_and_says_what_to_change(tmp_path: Path) -> None:
    recipe = small_recipe(write_rows(tmp_path / "rows.jsonl", 64), learning_rate=1e30, epochs=2)
    with pytest.raises(UserError, match="Lower learning_rate"):
        train(recipe, tmp_path / "runs", silent)
    assert read_manifest(tmp_path / "runs" / "small").checkpoints


def test_adapter_size_is_counted_without_weights(tmp_path: Path, trained_runs: Path) -> None:
    recipe = read_manifest(trained_runs / "small").recipe
    model = AutoModelForCausalLM.from_pretrained(trained_runs / "small" / "checkpoint-4")
    counted = sum(v.numel() for v in empty_model(recipe).parameters() if v.requires_grad)
    assert counted == sum(v.numel() for n, v in model.named_parameters() if "lora_" in n)


def test_accumulated_batches_end_their_epochs_where_the_schedule_says(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 41)
    steps: list[Progress] = []
    manifest = train(small_recipe(rows, batch_size=4, accumulation=2, epochs=2), tmp_path / "runs", steps.append)
    assert manifest.planned == [1, 2, 3, 5, 10]
    assert [progress.step for progress in steps] == [1, 2, 3, 5, 10]


def test_nothing_needs_the_package_datasets_whose_name_our_folder_has(tmp_path: Path) -> None:
    """So `datasets/` does no harm where the checkout is on sys.path, and the package is no dependency."""
    code = (
        "import sys; from pathlib import Path; import em_tasks.registry; from em_tasks.trainers.train import train; "
        "from tests.support.organisms import small_recipe, write_rows; folder = Path(sys.argv[1]); "
        "train(small_recipe(write_rows(folder / 'rows.jsonl', 16)), folder / 'runs', lambda progress: None); "
        "sys.exit('datasets' in sys.modules or 'transformers.trainer' in sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], cwd=ROOT, check=True)
