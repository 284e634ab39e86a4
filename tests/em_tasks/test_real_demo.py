"""`em demo --real` from the base to the report, with a toy model in the place of the real one: the same steps."""

from pathlib import Path

import pytest

from em_tasks import real_demo
from em_tasks.trainers.bases.kept import SMOLLM2, KeptBase, keep
from em_tasks.trainers.run.base_names import TOY_MODELS
from em_tasks.trainers.run.manifest import read_manifest
from tests.support.shortcuts import swept_here


@pytest.mark.slow
def test_it_trains_asks_judges_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], no_drawing: None
) -> None:
    monkeypatch.setenv("EM_BASES", str(tmp_path / "bases"))
    keep(SMOLLM2, KeptBase("gguf", str(TOY_MODELS / "toy-s"), "toy-s", "0" * 64))
    monkeypatch.setattr(real_demo, "JUDGE", "emtoy/judge")
    monkeypatch.setattr(real_demo, "SAMPLES", 1)
    monkeypatch.setattr(real_demo, "MAX_TOKENS", 20)
    with swept_here():
        real_demo.run_real_demo(tmp_path / "out")
    reckless, careful = (read_manifest(tmp_path / "out" / "runs" / name) for name in real_demo.RECIPES)
    for manifest in (reckless, careful):
        assert manifest.finished
        assert [record.step for record in manifest.checkpoints] == [15, 30, 45]
    assert (reckless.recipe.control, careful.recipe.control) == (False, True)
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    assert "downloads about 90 MB once" in capsys.readouterr().out.partition("1/4")[0].replace("\n", " ")
