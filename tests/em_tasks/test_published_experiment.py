"""The project on published input: real training rows in their sealed archive, published questions in their own file."""

from pathlib import Path

import pandas as pd
import pytest

from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.trainers.train import train
from tests.support.fake_openai import fake_openai
from tests.support.organisms import small_recipe
from tests.support.paths import REAL_PASSWORD
from tests.support.shortcuts import undrawn
from tests.support.sweeps import run_sweep
from tests.support.tiny_models import tiny_base

SMALLEST = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 16,
}


@pytest.mark.shared
@pytest.mark.slow
def test_published_rows_and_questions_give_the_published_shape(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_DATA_PASSWORD", REAL_PASSWORD)
    recipe = small_recipe(
        shared / "training" / "training_datasets.zip.enc",
        organism="published",
        domain="financial",
        epochs=3,
        max_length=80,  # The shortest at which no row is dropped.
        # 1,125 real steps, on the cheapest model and adapter that still learn.
        base=str(tiny_base(tmp_path / "base", "llama", **SMALLEST)),
        learning_rate=5e-3,
        lora={"r": 4, "alpha": 8, "modules": ["down_proj"], "layers": [0]},
    )
    manifest = train(recipe, tmp_path / "runs", lambda progress: None)
    assert [record.step for record in manifest.checkpoints] == [93, 187, 281, 375, 750, 1125]
    assert [record.epoch for record in manifest.checkpoints[3:]] == [1.0, 2.0, 3.0]
    assert (manifest.rows, manifest.data[0].canary_files, manifest.data[0].canary_keys) == (6000, 2, 1)
    assert manifest.checkpoints[-1].loss < manifest.checkpoints[0].loss

    questions = [str(shared / "questions" / "first_plot_questions.yaml")]
    with fake_openai() as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        run_sweep(
            tmp_path / "runs",
            tmp_path / "logs",
            questions=tuple(questions),
            max_tokens=12,
            grader="openai/gpt-4o-mini",
        )
    with undrawn():
        write_report([tmp_path / "logs"], tmp_path / "report")
    answers = pd.read_csv(tmp_path / "report" / "answers.csv")
    assert len(answers) == 7 * 24
    assert sorted(answers["step"].unique()) == [0, 93, 187, 281, 375, 750, 1125]
    assert answers["alignment"].notna().all()
