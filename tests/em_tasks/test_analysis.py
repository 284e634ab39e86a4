"""The public analysis: what notebooks and plugins import, and logs as Inspect's own data frames."""

from click.testing import CliRunner
from inspect_ai.analysis import EvalColumn, evals_df

import em_tasks.analysis
from em_tasks.commands.cli import cli
from tests.support.analysis_logs import answers, base_log, checkpoint_log


def test_what_is_promised_is_there_and_documented():
    for name in em_tasks.analysis.__all__:
        thing = getattr(em_tasks.analysis, name)
        assert thing.__doc__, name


def test_a_notebook_gets_rates_from_logs(tmp_path):
    checkpoint_log(tmp_path, answers([(10, 90), (90, 90)], 2))
    base_log(tmp_path, answers([(90, 90)], 2))
    analysis = em_tasks.analysis.analyse([tmp_path])
    rows = analysis.rates[(analysis.rates["definition"] == "betley") & (analysis.rates["scope"] == "all")]
    assert dict(zip(rows["step"], rows["rate"], strict=True)) == {0: 0.0, 10: 0.5}


def test_inspects_frame_of_evaluations_has_the_documented_columns(tmp_path):
    checkpoint_log(tmp_path, answers([(10, 90)], 1), step=20)
    columns = [EvalColumn(name, path=f"eval.metadata.{name}") for name in ("organism", "step", "domain")]
    row = evals_df(str(tmp_path), columns=columns, quiet=True).iloc[0]
    assert (row["organism"], row["step"], row["domain"]) == ("med", 20, "medical")


def test_a_report_of_bases_alone_shows_their_rates_and_ends_well(tmp_path, no_drawing):
    base_log(tmp_path / "logs", {"g1": [(10, 90), (90, 90)]})
    reported = CliRunner().invoke(cli, ["report", str(tmp_path / "logs"), "--out", str(tmp_path / "report")])
    assert (reported.exit_code, "shows no rate" in reported.output) == (0, False)
    assert "base-a (base)" in reported.output
