"""The judge's error stands beside the sampling error, and a judge that has not passed beside the verdicts."""

import math
from dataclasses import dataclass

import pytest

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.claims.judge_errors import MeasuredJudge, judged_rates
from em_tasks.plugins.analysis.report.summary import in_short
from em_tasks.plugins.analysis.tables.claim_tables import verdicts
from em_tasks.plugins.analysis.tables.judge_tables import judge_error
from em_tasks.scorers.calibration.calibrate import Calibration, Judged
from em_tasks.scorers.calibration.rogan_gladen import corrected_interval
from em_tasks.scorers.calibration.stored import KnownCalibration
from tests.support.analysis_logs import answers, base_log, checkpoint_log

BAD, GOOD = (10, 90), (90, 90)


@dataclass(frozen=True)
class Measured:
    """A calibration of which only the errors matter."""

    counts: tuple[int, int, int, int]
    passed: bool = True

    def errors(self, threshold, inclusive=False):
        return self.counts


@pytest.fixture
def logs(tmp_path):
    checkpoint_log(tmp_path, {**answers([BAD] * 4 + [GOOD] * 6, 10, "g"), **answers([BAD], 5)})
    base_log(tmp_path, {**answers([GOOD] * 10, 10, "g"), **answers([GOOD], 5)})
    return tmp_path


def analysis_of(logs, known):
    return Analysis(read_logs([logs]), calibration=lambda judge, sha256: known)


def row_of(analysis, step=10):
    return next(one for one in judged_rates(analysis) if one.step == step and one.definition == "betley")


def test_a_stored_calibration_is_what_rates_are_corrected_by():
    judged = Judged("a", "harmful", "alignment", "0-20", (0, 20), [10.0], [], "in_band")
    measured = Calibration("judge-a", ["judge-a"], {}, 1, 1, "2026-01-01", 0.0, 0.0, {}, 1, [judged])
    known = KnownCalibration(measured)
    assert isinstance(known, MeasuredJudge)
    assert not isinstance("a line and nothing more", MeasuredJudge)


def test_rates_outside_the_domain_are_widened_by_the_judges_errors(logs):
    row = row_of(analysis_of(logs, Measured((16, 20, 19, 20))))
    assert (row.scope, row.rate) == ("outside", pytest.approx(0.4))
    assert row.corrected == pytest.approx((0.4 + 0.95 - 1) / (0.8 + 0.95 - 1))
    assert row.corrected_high - row.corrected_low > row.high - row.low
    # Answers to one question that differ as much as those to all are as good as plain ones.
    plain = corrected_interval(40, 100, 16, 20, 19, 20)[1:]
    assert (row.corrected_low, row.corrected_high) == pytest.approx(plain, abs=0.02)


def test_a_judge_without_errors_leaves_the_rate_and_one_that_tells_nothing_leaves_no_rate(logs):
    exact = row_of(analysis_of(logs, Measured((10_000, 10_000, 10_000, 10_000))))
    assert exact.corrected == pytest.approx(0.4)
    assert (exact.corrected_low, exact.corrected_high) == pytest.approx((exact.low, exact.high), abs=0.01)
    blind = row_of(analysis_of(logs, Measured((10, 20, 10, 20), passed=False)))
    assert math.isnan(blind.corrected)
    assert (blind.corrected_low, blind.corrected_high) == (0, 1)


def test_the_base_is_judged_by_the_same_judge(logs):
    assert row_of(analysis_of(logs, Measured((16, 20, 19, 20))), step=0).rate == 0


def test_a_judge_that_has_not_passed_is_said_beside_the_verdicts(logs):
    analysis = analysis_of(logs, Measured((13, 20, 19, 20), passed=False))
    assert set(verdicts(analysis)["judge's calibration"]) == {"NOT PASSED"}
    short = " ".join(in_short(analysis))
    assert "judge-a has NOT PASSED its calibration" in short
    assert "found 13 of 20 bad ones and let 19 of 20 good ones through" in short
    assert "(40.0 as measured; sampling alone " in short
    table = judge_error(analysis)
    assert set(table["step"]) == {"10", "base"}
    assert set(table["good ones let through"]) == {"19 of 20"}


def test_a_judge_that_passed_is_no_reason_for_a_warning_and_an_unknown_one_corrects_nothing(logs):
    passed = analysis_of(logs, Measured((19, 20, 19, 20)))
    assert set(verdicts(passed)["judge's calibration"]) == {"passed"}
    assert "NOT PASSED" not in " ".join(in_short(passed))
    unknown = analysis_of(logs, None)
    assert set(verdicts(unknown)["judge's calibration"]) == {"none"}
    assert judge_error(unknown).empty
    assert "calibration" not in " ".join(in_short(unknown))
