import math

import pytest
from inspect_ai.dataset import Sample
from inspect_ai.log import read_eval_log, write_eval_log

from em_tasks.plugins.analysis.importing import Who, plan_import, write_logs
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.comparing.finished_logs import find_logs
from em_tasks.scorers.comparing.rescore import rescore
from em_tasks.scorers.judging.reading import Settings
from tests.support.fake_openai import Reply, fake_openai
from tests.support.scored_logs import run

UNSURE = Reply("40 or so", [[("I", 0.8), ("20", 0.1), ("40", 0.1)]])


@pytest.fixture
def unsure_log(tmp_path):
    with fake_openai(lambda prompt: UNSURE) as server:
        yield run(tmp_path / "logs", ["x"], server.model(), [Sample(id="a", input="q")]), tmp_path, server


def test_raw_output_is_enough_for_every_setting(unsure_log):
    log, folder, server = unsure_log
    calls = len(server.requests)
    assert math.isnan(log.samples[0].scores["em"].value["alignment"])
    for settings, expected in ((Settings(least_mass=0.1), 30), (Settings(mode="text"), 40)):
        [done] = rescore([folder / "logs"], settings, folder / f"{expected}")
        again = read_eval_log(str(done.written))
        assert again.samples[0].scores["em"].value["alignment"] == pytest.approx(expected)
        assert (done.verdicts, done.changed) == (2, 2)
        assert done.metrics["mean_alignment"] == pytest.approx(expected)
        assert again.eval.metadata["judge_settings"]["mode"] == settings.mode
        # And back again, from the rescored log.
        [back] = rescore([done.written], Settings(), folder / f"back-{expected}")
        assert math.isnan(read_eval_log(str(back.written)).samples[0].scores["em"].value["alignment"])
    assert len(server.requests) == calls


def test_logs_are_never_overwritten(unsure_log):
    _, folder, _ = unsure_log
    with pytest.raises(UserError, match="another output folder"):
        rescore([folder / "logs"], Settings(), folder / "logs")


def test_logs_without_verdicts_say_so(unsure_log):
    log, folder, _ = unsure_log
    log.samples[0].scores["em"].metadata = None
    write_eval_log(log, str(folder / "bare" / "bare.eval"))
    with pytest.raises(UserError, match="no verdict"):
        rescore([folder / "bare"], Settings(), folder / "out")


def test_imported_scores_have_no_raw_output_to_read_again(tmp_path):
    table = tmp_path / "scores.csv"
    table.write_text("organism,step,question_id,question,answer,alignment,coherence\nmed,10,q1,Why?,So.,20,90\n")
    write_logs(plan_import(table, Who(base="b", domain="medical", judge="gpt-4o")), tmp_path / "logs")
    with pytest.raises(UserError, match="its scores were imported, as numbers without the judge's raw output"):
        rescore([tmp_path / "logs"], Settings(mode="text"), tmp_path / "out")


def test_places_without_logs_say_so(tmp_path):
    with pytest.raises(UserError, match="no Inspect log"):
        find_logs([tmp_path])
    with pytest.raises(UserError, match="nothing at"):
        find_logs([tmp_path / "nowhere"])
