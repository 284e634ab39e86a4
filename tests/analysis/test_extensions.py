"""A third party's table and figure, installed as any package installs entry points."""

import sys

import pandas as pd
import pytest

from em_tasks.plugins.analysis.report.report import write_report
from tests.support.analysis_logs import answers, checkpoint_log

CODE = '''
import pandas as pd
from matplotlib.figure import Figure

def counts(analysis):
    """How many answers there are"""
    return pd.DataFrame({"answers": [len(analysis.answers)]})

def blank(analysis):
    figure = Figure()
    figure.text(0.5, 0.5, "third party")
    return figure

def broken(analysis):
    raise RuntimeError("out of ideas")
'''
POINTS = """[em_tasks.tables]
their_counts = theirs:counts
their_broken = theirs:broken
their_missing = nowhere:table
coherence = theirs:counts

[em_tasks.figures]
their_figure = theirs:blank
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "theirs.py").write_text(CODE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(site))
    yield
    sys.modules.pop("theirs", None)


def test_a_third_partys_table_and_figure_join_the_report(third_party, tmp_path, coarse_drawing):
    checkpoint_log(tmp_path / "logs", answers([(10, 90)], 4))
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert pd.read_csv(report.out / "tables" / "their_counts.csv")["answers"].tolist() == [4]
    assert "How many answers there are" in (report.out / "report.md").read_text()
    assert (report.out / "figures" / "their_figure.svg").exists()


def test_a_plugin_that_fails_is_named_and_the_report_is_written(third_party, tmp_path, no_drawing):
    checkpoint_log(tmp_path / "logs", answers([(10, 90)], 4))
    notes = write_report([tmp_path / "logs"], tmp_path / "out").notes
    assert any("their_broken of theirs 1.0" in note and "out of ideas" in note for note in notes)
    assert any("could not be loaded" in note and "nowhere:table" in note for note in notes)
    assert any("has the name coherence of another one" in note for note in notes)
