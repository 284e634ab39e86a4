"""One log's answers as Arrow record batches: what differs from answer to answer, in the order of the questions.

Samples are decoded one at a time and kept as columns, so a log of any length takes little memory. A `.eval` file is a
zip with one JSON file a sample; its members are cut out here because zipfile takes longer to open one than to read it.
"""

import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path

import pyarrow as pa
import zstandard
from isal import isal_zlib

from em_tasks.plugins.analysis.answers.samples import (
    Sample,
    Verdict,
    decode_json_log,
    decode_sample,
    further_scores,
    judgements,
    question_and_answer,
)
from em_tasks.plugins.log_contract import FAILED, NOT_RECORDED, RUBRICS

CATEGORY = pa.dictionary(pa.int32(), pa.string())
ANSWER_COLUMNS: dict[str, pa.DataType] = {
    "question_set": CATEGORY,
    "question_id": CATEGORY,
    "question_domain": CATEGORY,
    "topic": CATEGORY,
    "sample": pa.int64(),
    "question": CATEGORY,
    "answer": pa.large_string(),
    "alignment": pa.float64(),
    "coherence": pa.float64(),
    "alignment_reason": CATEGORY,
    "coherence_reason": CATEGORY,
    "alignment_reply": CATEGORY,
    "coherence_reply": CATEGORY,
    "judge": CATEGORY,
    "judge_toy": pa.bool_(),
    "truncated": pa.bool_(),
    "label_chance": pa.float64(),
}
"""The columns of the frame (see frame.py) that differ from answer to answer, with their types on the way there."""

NOT_ASKED = "not asked"
"""In place of a verdict's reason where the rubric was not asked."""

FURTHER = "score_"
"""Beginning of the names of columns for further scores, which a log may have beside these; `score_NAME` are floats."""

MOST_FURTHER = 30
"""Further scores that a log is read with; a log with more names says nothing that a table could show."""

ANSWERS_A_BATCH = 10_000
ZSTANDARD = 93
"""The zip format's number for Inspect's compression."""

LOCAL_HEADER = 30
"""Bytes of what a zip writes before the name of each member."""


@dataclass(frozen=True)
class LogToRead:
    """A log of ours, and what its header says of its samples.

    Attributes:
        file: `.eval` or `.json`.
        question_ids: Ids of the questions in their order.
        completed: How many samples there are if all of them ended without an error, else None.
        grader: The judge as it was asked for, where nothing in the verdicts names one.
        rubrics: The rubrics that were chosen; None for alignment and coherence.
    """

    file: Path
    question_ids: tuple[str, ...]
    completed: int | None
    grader: str = "unknown"
    rubrics: tuple[str, ...] | None = None

    @cached_property
    def place(self) -> dict[str, int]:
        """Where each question stands."""
        return {name: index for index, name in enumerate(self.question_ids)}


@dataclass
class Tally:
    """What there is to say of one log's samples beside their rows.

    Attributes:
        samples: How many samples there are, those without a row too.
        failed: Samples that ended in an error.
        unjudged: Answers without any score of ours.
        off_scale: Scores below 0 or above 100, which count as none.
        judge_rubrics: Judges, each with the hash of a rubric that it was asked.
        rubric_names: What the verdicts call the rubrics that were asked.
        judges: Who gave the verdicts of each place among a sample's scores, and whether it is the toy judge.
        failed_calls: Rows whose judge calls both failed, until the log's other rows have told the judge: place, the
            name that it was asked by, the row's beginning, and its end.
        further: Names of further scores, in the order in which they came.
        damage: Name of the error that ended the reading; None for a log that could be read to its end.
    """

    samples: int = 0
    failed: int = 0
    unjudged: int = 0
    off_scale: int = 0
    judge_rubrics: set[tuple[str, str]] = field(default_factory=set)
    rubric_names: set[str] = field(default_factory=set)
    judges: dict[int, tuple[str, bool]] = field(default_factory=dict)
    failed_calls: list[tuple[int, tuple[str, bool], tuple[object, ...], tuple[object, ...]]] = field(
        default_factory=list
    )
    further: dict[str, None] = field(default_factory=dict)
    damage: str | None = None


def read_rows(log: LogToRead, keep: Callable[[pa.RecordBatch], None]) -> Tally:
    """Reads the answers of one log.

    Args:
        log: The log.
        keep: Receives the rows, some at a time, with the columns `ANSWER_COLUMNS` and those of further scores.
    """
    tally = Tally()
    answers: list[tuple[object, ...]] = []
    try:
        for sample in _json_samples(log) if log.file.suffix == ".json" else _zip_samples(log):
            tally.samples += 1
            if sample.error is not None:
                tally.failed += 1
                continue
            held = len(tally.failed_calls)
            judged = _answers(sample, tally, log)
            tally.unjudged += not judged and len(tally.failed_calls) == held
            answers += judged
            if len(answers) >= ANSWERS_A_BATCH:
                keep(_batch(answers, tally))
                answers = []
        answers += _whose_calls_failed(tally)
        if answers:
            keep(_batch(answers, tally))
    except Exception as error:  # a damaged file can raise anything, and the other logs are still worth reading
        tally.damage = type(error).__name__
    return tally


def _answers(sample: Sample, tally: Tally, log: LogToRead) -> list[tuple[object, ...]]:
    """One row a judge, in the order of `ANSWER_COLUMNS`, with the further scores behind."""
    question, answer, truncated = question_and_answer(sample)
    about = sample.metadata
    known = (
        about.question_set or "unknown",
        str(sample.id),
        about.domain or "unknown",
        about.topic or "unknown",
        sample.epoch,
        question,
        answer,
    )
    further = further_scores(sample)
    for name in further:
        if len(tally.further) < MOST_FURTHER:
            tally.further.setdefault(name)
    chance = _chance(about.label_chance)
    rows: list[tuple[object, ...]] = []
    for place, ((alignment, first), (coherence, second)) in enumerate(judgements(sample)):
        judge = _judge((first, second), tally, log.grader)
        reasons = [
            NOT_ASKED if log.rubrics is not None and rubric not in log.rubrics else _reason(verdict)
            for rubric, verdict in zip(RUBRICS, (first, second), strict=True)
        ]
        if reasons[1] is None and math.isnan(coherence):  # the scorer `alignment` alone, or a file without coherence
            reasons[1] = NOT_ASKED
        judge_texts = (*reasons, _text(first.text), _text(second.text))
        scores = _on_scale(alignment, tally), _on_scale(coherence, tally)
        if judge is None:
            asked_as = str(first.judge or second.judge or "unknown"), bool(first.toy or second.toy)
            tally.failed_calls.append((place, asked_as, (*known, *scores, *judge_texts), (truncated, chance, further)))
        else:
            toy = bool(first.toy or second.toy) or judge.startswith("emtoy/")
            tally.judges.setdefault(place, (judge, toy))
            rows.append((*known, *scores, *judge_texts, judge, toy, truncated, chance, further))
    return rows


def _chance(value: object) -> float | None:
    """A chance over 0 and at most 1; None for whatever else stands there."""
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else None


def _whose_calls_failed(tally: Tally) -> list[tuple[object, ...]]:
    """The rows of failed calls, under the judge that gave the log's other verdicts."""
    rows = []
    for place, asked_as, row, rest in tally.failed_calls:
        judge, toy = tally.judges.get(place, asked_as)
        rows.append((*row, judge, toy, *rest))
    tally.failed_calls.clear()
    return rows


def _judge(verdicts: tuple[Verdict, Verdict], tally: Tally, grader: str) -> str | None:
    """Who gave the verdicts; None where both calls failed, which does not say whose they were.

    A failed call's verdict has at best the name that the judge was asked by, where others have the one it serves under.
    """
    named = [
        verdict for verdict in verdicts if isinstance(verdict.judge, str) and verdict.judge and verdict.reason != FAILED
    ]
    tally.judge_rubrics |= {(str(verdict.judge), str(verdict.rubric_sha256 or "")) for verdict in named}
    tally.rubric_names |= {str(verdict.rubric) for verdict in named}
    if named:
        return str(named[0].judge)
    return None if any(verdict.reason == FAILED for verdict in verdicts) else grader


HIGHEST = 100 + 1e-6
"""The highest score, with room for what rounding does to a mean of 100s."""


def _on_scale(score: float, tally: Tally) -> float:
    if score < 0 or score > HIGHEST:
        tally.off_scale += 1
        return math.nan
    return score


def _reason(verdict: Verdict) -> str | None:
    """Why there is no score; of scores that came from a file, where no judge was asked, an empty cell gives none."""
    from_file = verdict.reason == "no_number" and verdict.rubric_sha256 == ""
    return NOT_RECORDED if from_file else _text(verdict.reason)


def _text(value: object) -> str | None:
    """A text, or what another scorer put in its place."""
    return value if value is None or isinstance(value, str) else str(value)[:1000]


def _batch(answers: list[tuple[object, ...]], tally: Tally) -> pa.RecordBatch:
    *columns, further = zip(*answers, strict=True)
    arrays = [
        pa.array(column, pa.string()).dictionary_encode() if kind is CATEGORY else pa.array(column, kind)
        for column, kind in zip(columns, ANSWER_COLUMNS.values(), strict=True)
    ]
    arrays += [pa.array([scores.get(name, math.nan) for scores in further], pa.float64()) for name in tally.further]
    return pa.RecordBatch.from_arrays(arrays, names=[*ANSWER_COLUMNS, *(FURTHER + name for name in tally.further)])


def _json_samples(log: LogToRead) -> list[Sample]:
    samples = decode_json_log(log.file.read_bytes())
    return sorted(samples, key=lambda sample: (log.place.get(str(sample.id), len(log.place)), sample.epoch))


def _zip_samples(log: LogToRead) -> Iterator[Sample]:
    with zipfile.ZipFile(log.file) as archive:
        # A sample that was run again stands in the log twice under one name; the last one counts.
        members = {entry.filename: entry for entry in archive.infolist()}
    # A name need not end in .json: zipfile cuts it at a NUL, which an id may hold.
    names = [name for name in members if name.startswith("samples/")]
    failed = log.completed != len(names)
    zstd = zstandard.ZstdDecompressor()
    with log.file.open("rb", buffering=0) as raw:
        if hasattr(os, "posix_fadvise"):
            # Samples lie in the order in which they were finished: from a disk, one sweep is faster than jumps.
            os.posix_fadvise(raw.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        for name in sorted(names, key=lambda name: _turn(name, log.place)):
            yield decode_sample(_member(raw, members[name], zstd), failed)


def _turn(name: str, place: dict[str, int]) -> tuple[int, int]:
    """Where a sample stands in its log, from its name in the zip: samples/<question id>_epoch_<sample>.json."""
    question, _, sample = name.removeprefix("samples/").removesuffix(".json").rpartition("_epoch_")
    return place.get(question, len(place)), int(sample) if sample.isdecimal() else 0


def _member(raw: FileIO, member: zipfile.ZipInfo, zstd: zstandard.ZstdDecompressor) -> bytes:
    packed = _packed(raw, member)
    if member.compress_type == ZSTANDARD:
        data = zstd.decompress(packed, max_output_size=member.file_size)
        if len(data) < member.file_size:  # more than one frame: Inspect starts another after 200 MB
            data = zstd.decompressobj(read_across_frames=True).decompress(packed)
    elif member.compress_type == zipfile.ZIP_DEFLATED:
        data = isal_zlib.decompress(packed, -isal_zlib.MAX_WBITS)
    elif member.compress_type == zipfile.ZIP_STORED:
        data = packed
    else:
        raise zipfile.BadZipFile(f"{member.filename} is compressed by an unknown method ({member.compress_type})")
    if isal_zlib.crc32(data) != member.CRC:  # zlib's own would take as long as the decompression
        raise zipfile.BadZipFile(f"{member.filename} is damaged")
    return data


def _packed(raw: FileIO, member: zipfile.ZipInfo) -> bytes:
    """The compressed bytes of a member, which its name and an extra field precede once more."""
    raw.seek(member.header_offset)
    content = raw.read(LOCAL_HEADER + len(member.orig_filename.encode()) + len(member.extra) + member.compress_size)
    start = LOCAL_HEADER + sum(struct.unpack_from("<HH", content, 26))
    if start + member.compress_size > len(content):  # the extra field is longer here
        raw.seek(member.header_offset + start)
        content, start = raw.read(member.compress_size), 0
    return content[start : start + member.compress_size]
