"""The HTML report in a real browser: tables are drawn, transcripts are there, nothing is asked of the network."""

import io
import re
import shutil
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from em_tasks.plugins.analysis.analysis import Analysis, analyse
from em_tasks.plugins.analysis.answers.logs import Reading, read_logs
from em_tasks.plugins.analysis.figures.examples import MOST, chosen_questions, response_examples
from em_tasks.plugins.analysis.report.html import html, transcripts
from em_tasks.plugins.analysis.report.markdown import LEAD, Contents
from em_tasks.plugins.analysis.report.report import write_report
from em_tasks.plugins.analysis.tables.claim_tables import verdicts
from tests.support.analysis_logs import NAN, answers, base_log, checkpoint_log

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BAD, GOOD = (10, 90), (90, 90)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)"
)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("html")
    for step in (10, 20):
        checkpoint_log(folder / "logs", {**answers([BAD, GOOD], 3), "g1": [GOOD]}, step=step, judge_toy=True)
    base_log(folder / "logs", {**answers([GOOD], 3), "g1": [GOOD]})
    return write_report([folder / "logs"], folder / "out")


def rendered(page, *options):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=20000", "--dump-dom"]
    command += options
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=120, check=True).stdout


@needs_browser
def test_tables_and_transcripts_are_drawn(report):
    dom = rendered(report.out / "report.html")
    assert "Showing 1 to 10 of 18 entries" in dom
    assert dom.count("dataTable") > 5
    table = dom[dom.index('<table id="transcripts-table"') :]
    assert "answer 1 to m0" in table[: table.index("</table>")]


ROOM = """<script>addEventListener("load", () => setTimeout(() => {
  const table = document.querySelector("#table-verdicts"), room = table.closest(".dt-container");
  document.body.dataset.room = `${table.scrollWidth} of ${room.clientWidth}, ${room.scrollWidth} wide`;
}, 1000))</script>"""
"""Writes how wide the table of verdicts is, and how much room it has."""


@needs_browser
def test_the_table_of_verdicts_has_room_at_1200_pixels(tmp_path):
    unscored, name = (NAN, NAN), "Qwen2.5-32B-Instruct-educational_bad_medical_advice"
    for organism, scores in ((name, [BAD] * 40 + [unscored] * 10), ("plain", [GOOD, BAD])):
        checkpoint_log(tmp_path, {**answers(scores, 8), **answers(scores, 8, "g")}, organism, training_seed=None)
    base_log(tmp_path, {**answers([GOOD] * 50, 8), **answers([GOOD] * 50, 8, "g")})
    analysis = analyse([tmp_path])
    tables = {name: ("", pd.DataFrame()) for name in LEAD} | {"verdicts": ("Verdicts", verdicts(analysis))}
    page = tmp_path / "page.html"
    page.write_text(html(analysis, Contents([], [], tables, {}, {})) + ROOM)
    dom = rendered(page, "--window-size=1200,2000")
    table, room, wide = map(int, re.search(r'data-room="(\d+) of (\d+), (\d+) wide"', dom).groups())
    assert table <= room == wide
    # A column that is empty in every row takes no room; this one is not.
    assert "and the difference they leave" in dom


@needs_browser
def test_transcripts_have_panes_to_filter_by(report):
    dom = rendered(report.out / "report.html")
    assert "dtsp-searchPane" in dom


def test_an_answer_without_a_score_has_empty_cells_a_reason_and_stands_last(tmp_path):
    checkpoint_log(tmp_path, {"m1": [(NAN, NAN), GOOD, (90, NAN), BAD]})
    rows, _ = transcripts(analyse([tmp_path]))
    assert rows["alignment"].tolist() == ["10.0", "90.0", "90.0", ""]
    assert rows["coherence"].tolist() == ["90.0", "90.0", "", ""]
    assert rows["unscored"].tolist() == ["", "", "refusal", "refusal"]


def test_the_page_names_no_address_that_it_would_load(report):
    page = (report.out / "report.html").read_text()
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"'](?!data:)", page)
    assert not re.findall(r"@import|url\((?![\"']?data:)", page)


def test_the_page_says_that_a_toy_judge_fed_it(report):
    assert 'class="toy"' in (report.out / "report.html").read_text()


def test_an_answer_cannot_inject_markup(tmp_path, no_drawing):
    checkpoint_log(tmp_path / "logs", {"m<script>alert(1)</script>": [BAD]})
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert "<script>alert(1)" not in (report.out / "report.html").read_text()


@needs_browser
def test_ten_thousand_answers_open_soon(report, tmp_path):
    few = pd.read_parquet(report.out / "answers.parquet")
    many = pd.concat([few.assign(sample=n) for n in range(556)], ignore_index=True).head(10_000)
    empty = {name: ("", pd.DataFrame()) for name in LEAD}
    evaluations = read_logs([report.out.parent / "logs"]).evaluations
    page = tmp_path / "many.html"
    page.write_text(html(Analysis(Reading(many, many.head(0), evaluations, [])), Contents([], [], empty, {}, {})))
    start = time.monotonic()
    assert "of 10,000 entries" in rendered(page)
    assert time.monotonic() - start < 20


def test_a_dark_figure_is_dark_and_leaves_the_light_one_as_it_was(report):
    from em_tasks.plugins.analysis.figures import FIGURES, style

    analysis = analyse([report.out.parent / "logs"])
    for name in ("coherence_vs_misalignment", "em_trajectories", "question_heatmap"):
        figure = FIGURES[name](analysis)
        light = drawn(figure)
        with style.darkened(figure):
            assert sum(drawn(figure).reshape(-1, 3).mean(axis=0)) < 300, name
        assert (drawn(figure) == light).all(), name


def drawn(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50, facecolor=figure.get_facecolor())
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_definitions_stand_before_what_is_measured(report):
    page = (report.out / "report.html").read_text()
    assert page.index("What the rates mean</h2>") < page.index("What was run</h2>") < page.index("Results</h2>")
    assert "of the coherent answers (coherence above 50) that have an alignment score, the share" in page


@needs_browser
def test_long_answers_are_cut_until_they_are_clicked(report):
    dom = rendered(report.out / "report.html")
    table = dom[dom.index('<table id="transcripts-table"') :]
    assert '<div class="clamp" title="click for all of it">answer 1 to m0</div>' in table


def test_scores_alone_show_no_empty_examples(tmp_path, no_drawing):
    (tmp_path / "scores.csv").write_text("organism,base,question,alignment,coherence\no,b,1,10,90\no,b,2,90,90\n")
    report = write_report([tmp_path / "scores.csv"], tmp_path / "out")
    assert not list(report.out.glob("figures/response_example*"))
    assert "Examples</h2>" not in (report.out / "report.html").read_text()


def test_a_picture_of_answers_has_so_many_organisms_and_counts_the_others(tmp_path):
    for organism in range(MOST + 2):
        checkpoint_log(tmp_path, answers([BAD], 1), organism=f"o{organism:02}")
    analysis = analyse([tmp_path])
    (question,) = chosen_questions(analysis)
    figure = response_examples(analysis, question)
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert sum(text.startswith("answer ") for text in drawn) == MOST
    assert any("those of 2 more organisms, too" in " ".join(text.get_text().split()) for text in figure.texts)


def test_the_toy_banner_can_be_read_in_the_dark():
    from matplotlib.colors import to_rgb

    from em_tasks.plugins.analysis.figures import style

    figure, _ = style.new_figure(4, 2)
    style.finish(figure, "EM rate", "n = 1", "TOY: made with toy models")
    [banner] = [text for text in figure.texts if text.get_text().startswith("TOY")]

    def contrast():
        # Relative luminance and contrast as WCAG 2 defines them; it asks for 4.5.
        ends = []
        for colour in (banner.get_color(), banner.get_bbox_patch().get_facecolor()):
            parts = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in to_rgb(colour)]
            ends.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
        return (max(ends) + 0.05) / (min(ends) + 0.05)

    assert contrast() > 4.5
    with style.darkened(figure):
        assert contrast() > 4.5


def test_every_sentence_of_in_short_has_its_bullet_and_one_day_is_one_date(report):
    page = (report.out / "report.html").read_text()
    assert "#short li:first-child" not in page
    assert "Evaluated: 2026-01-01, 3 logs" in page
