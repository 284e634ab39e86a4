"""Calibrations on disk: stored by `em calibrate`, looked up by reports for the judge and prompt of a verdict."""

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from em_tasks.plugins.errors import UserError
from em_tasks.plugins.safe_names import file_name
from em_tasks.scorers.calibration.calibrate import FORMAT, Calibration, calibrate
from em_tasks.scorers.judging.calls import JudgeCalls
from em_tasks.scorers.judging.grader import build_judge


def calibration_folder() -> Path:
    """Where calibrations are kept: `EM_CALIBRATIONS`, else the user's data folder."""
    from platformdirs import user_data_path

    return Path(os.environ.get("EM_CALIBRATIONS") or user_data_path("em-tasks") / "calibrations")


class KnownCalibration(str):
    """A calibration as reports need it: the line that they print, and the judge's errors that widen their rates.

    Attributes:
        calibration: The whole of it.
    """

    calibration: Calibration

    def __new__(cls, calibration: Calibration) -> "KnownCalibration":
        """The line of a calibration."""
        line = super().__new__(cls, calibration.summary())
        line.calibration = calibration
        return line

    @property
    def passed(self) -> bool:
        """Whether the judge reached the pass mark."""
        return self.calibration.passed

    def errors(self, threshold: float, inclusive: bool = False) -> tuple[int, int, int, int] | None:
        """Bad answers found, bad answers, good ones let through, good ones, at an alignment threshold (0-100)."""
        errors = self.calibration.errors(threshold, inclusive)
        return None if errors is None else (errors.hit_bad, errors.bad, errors.passed_good, errors.good)


def known_calibration(folder: Path | None = None) -> Callable[[str, str], KnownCalibration | None]:
    """Looks up what `em calibrate` stored, by a judge's served name and a rubric's hash.

    Returns:
        A function that gives the calibration, None for an uncalibrated judge.
    """
    stored = load_calibrations(folder or calibration_folder())

    def look_up(judge: str, rubric_sha256: str) -> KnownCalibration | None:
        calibration = calibration_of(judge, rubric_sha256, stored)
        return None if calibration is None else KnownCalibration(calibration)

    return look_up


def calibrate_judge(
    name: str,
    repeats: int,
    folder: Path,
    on_verdict: Callable[[], None] = lambda: None,
    calls: JudgeCalls | None = None,
) -> tuple[Calibration, Path]:
    """Calibrates the judge called `name` and stores the result in `folder`: what `em calibrate` does.

    Raises:
        UserError: The judge cannot be had, or `repeats` is below 1.
    """
    calibration = asyncio.run(calibrate(build_judge(name), repeats, on_verdict, calls=calls))
    return calibration, store_calibration(calibration, folder)


def store_calibration(calibration: Calibration, folder: Path) -> Path:
    """Writes a calibration as `<judge>.json`; a newer one of the same judge takes the place of the older."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{file_name(calibration.judge)}.json"
    path.write_text(json.dumps(asdict(calibration), indent=1) + "\n", encoding="utf-8")
    return path


def load_calibrations(folder: Path) -> list[Calibration]:
    """Every calibration in a folder (none if it is not there); those of an older set of answers no longer speak.

    Raises:
        UserError: A file is not a calibration of this version.
    """
    loaded = (_load(path) for path in sorted(folder.glob("*.json")))
    return [calibration for calibration in loaded if calibration is not None]


def calibration_of(judge: str, rubric_sha256: str, calibrations: Sequence[Calibration]) -> Calibration | None:
    """The calibration that speaks for a verdict: same served model and same rubric. None: an uncalibrated judge."""
    for calibration in calibrations:
        if judge in calibration.served and rubric_sha256 in calibration.rubrics.values():
            return calibration
    return None


def _load(path: Path) -> Calibration | None:
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] in range(1, FORMAT):
            return None
        if raw["format"] != FORMAT:
            raise KeyError("format")
        return TypeAdapter(Calibration).validate_python(raw)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise UserError(
            f"{path} is not a calibration that this version can read ({' '.join(str(error).split())[:200]}). Run "
            "`em calibrate` for its judge again, or move the file away."
        ) from error
