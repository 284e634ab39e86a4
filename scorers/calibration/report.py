"""A calibration as text: what `em calibrate` prints."""

from tabulate import tabulate

from em_tasks.scorers.calibration.calibrate import PASS_MARK, Calibration

FAILURES_SHOWN = 20


def calibration_table(calibration: Calibration) -> str:
    """Kinds, failures, spread and unreadable replies, as plain text."""
    kinds = tabulate(
        [
            (kind.replace("_", " "), rubric, n, right, n - right - none, none)
            for kind, rubric, n, right, none in calibration.kinds()
        ],
        headers=["kind of answer", "rubric", "answers", "in band", "outside", "unscored"],
    )
    parts = [
        f"Calibration of {calibration.judge} (served by {', '.join(calibration.served)}): {calibration.items} answers, "
        f"{calibration.repeats} calls each and rubric, {calibration.calls} calls.",
        kinds,
    ]
    marks = tabulate(
        [
            (cut, f"{mark.hit_bad}/{mark.bad}", f"{mark.passed_good}/{mark.good}")
            for cut, mark in calibration.marks().items()
        ],
        headers=["below the cut", "bad ones found", "good ones let through"],
    )
    parts.append(
        f"{'PASSED' if calibration.passed else 'NOT PASSED'}: {100 * PASS_MARK:.0f} % of each are asked for, on "
        f"answers of one length.\n{marks}"
    )
    failures = calibration.failures()
    if failures:
        rows = [
            (entry.item, entry.rubric, entry.band, _said(entry.scores, entry.reasons))
            for entry in failures[:FAILURES_SHOWN]
        ]
        parts.append("Where it fails:\n" + tabulate(rows, headers=["answer", "rubric", "right", "judge"]))
        if len(failures) > FAILURES_SHOWN:
            parts.append(f"... and {len(failures) - FAILURES_SHOWN} more, all in the stored file.")
    else:
        parts.append("It fails nowhere in this set.")
    reasons = ", ".join(f"{n} {reason}" for reason, n in calibration.unreadable.items()) or "none"
    parts.append(
        f"Test-retest: repeated scores differ by {calibration.spread:.2f} points on average, "
        f"{calibration.largest_spread:.2f} at most.\nCalls without a score that was due: {reasons}."
    )
    return "\n\n".join(parts)


def _said(scores: list[float | None], reasons: list[str]) -> str:
    known = [f"{score:.0f}" for score in scores if score is not None]
    return " ".join([*dict.fromkeys(known), *dict.fromkeys(reasons)])
