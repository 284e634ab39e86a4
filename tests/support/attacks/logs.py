"""Logs: read, scored again and reported."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.scorers.comparing.rescore import rescore
from em_tasks.scorers.judging.reading import Settings
from tests.support.analysis_logs import checkpoint_log
from tests.support.attacks.kind import Kind
from tests.support.hostile import as_json, scalars, spoilt, spoilt_text

TWENTY = {"g0": [(20.0, 90.0), (90.0, 95.0)], "m0": [(10.0, 80.0), (50.0, float("nan"))]}
MEMBERS: dict[str, Any] = {}


def prepare_logs(kept: Path) -> None:
    path = checkpoint_log(kept, TWENTY, reason="refusal", judge="judge $x$ [bold]")
    checkpoint_log(kept, TWENTY, organism=None, step=0, name="good")
    with zipfile.ZipFile(path) as log:
        MEMBERS.update({name: json.loads(log.read(name)) for name in log.namelist()})


@st.composite
def logs(draw: Callable[[Any], Any]) -> tuple[str, dict[str, Any] | None, int, int]:
    """A name, members and their new content, how the file is spoilt, and where."""
    members: dict[str, Any] = {}
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(MEMBERS)))
        what = draw(st.integers(0, 9))
        if what == 0:
            members[name] = None
        elif what == 1:
            members[name] = draw(spoilt_text(as_json(MEMBERS[name])))
        else:
            way = _interesting(draw, MEMBERS[name])
            members[name] = as_json(way).encode(errors="surrogatepass")
    name = draw(st.sampled_from(["log", "$x$", "[bold]", "a\x1b[31m", "日本", "-x", "<b>", "a\nb"]))
    return name, members, draw(st.integers(0, 11)), draw(st.integers(0, 10**6))


def _interesting(draw: Callable[[Any], Any], content: Any) -> Any:
    """The member spoilt, half of the time where the analysis looks: metadata, scores, verdicts, ids."""
    if draw(st.booleans()):
        return draw(spoilt(content))
    content = json.loads(json.dumps(content))
    for way in (("eval", "metadata"), ("metadata",), ("scores", "em"), ("output",), ("results",), ("eval", "dataset")):
        place: Any = content
        for step in way[:-1]:
            place = place.get(step) if isinstance(place, dict) else None
        if isinstance(place, dict) and way[-1] in place:
            place[way[-1]] = draw(spoilt(place[way[-1]], most=2))
    if isinstance(content, dict):
        for key in ("id", "epoch", "input", "status"):
            if key in content and draw(st.integers(0, 5)) == 0:
                content[key] = draw(scalars)
    return content


def write_log(content: Any, folder: Path, kept: Path) -> Path:
    name, members, spoils, at = content
    place = folder / "logs"
    place.mkdir()
    (place / "good.eval").write_bytes((kept / "good.eval").read_bytes())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, value in MEMBERS.items():
            changed = members.get(member, json.dumps(value).encode())
            if changed is not None:
                archive.writestr(member, changed)
    log = packed.getvalue()
    if spoils == 0:
        log = log[: at % len(log)]
    elif spoils == 1:
        log = log[: at % len(log)] + b"\xff\x00" + log[at % len(log) + 2 :]
    elif spoils == 2:
        (place / f"{name}.eval").symlink_to("nowhere")
        return place
    elif spoils == 3:
        os.mkfifo(place / f"{name}.eval")
        return place
    (place / f"{name}.eval").write_bytes(log)
    return place


def attack_logs(content: Any, path: Path, out: Path) -> None:
    reading = read_logs([path])
    good = reading.answers[reading.answers["organism"].isna()]
    assert len(good) >= 4 or _is_about_bases(content), reading.notes


def _is_about_bases(content: Any) -> bool:
    """Whether the spoilt log may have become the good one's own, so that one of them is left out."""
    return any(b'"organism": null' in (member or b"") for member in content[1].values())


def attack_report(content: Any, path: Path, out: Path) -> None:
    write_report([path], out)
    page = (out / "report.html").read_text()
    assert "<script>alert" not in page


def attack_rescore(content: Any, path: Path, out: Path) -> None:
    rescore([path], Settings("text"), out)


KINDS = (
    Kind("logs", 10, logs(), write_log, attack_logs, prepare_logs),
    Kind("rescored logs", 2, logs(), write_log, attack_rescore, prepare_logs),
    Kind("reports", 1, logs(), write_log, attack_report, prepare_logs),
)
