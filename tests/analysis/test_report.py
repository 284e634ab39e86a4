"""The report: every file is there, toys are unmissable, nothing is plotted where nothing was scored."""

import io

import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.figures.judges import judge_comparison
from em_tasks.plugins.analysis.figures.trajectory import em_trajectories
from em_tasks.plugins.analysis.report.report import _write_figures, write_report
from em_tasks.plugins.analysis.tables.rate_tables import seeds
from em_tasks.plugins.analysis.tables.writing import TABLES
from em_tasks.plugins.errors import UserError
from tests.support.analysis_logs import NAN, answers, base_log, checkpoint_log
from tests.support.shortcuts import undrawn

BAD, GOOD = (10, 90), (90, 90)


def shown(report):
    console = Console(file=io.StringIO(), width=100)
    console.print(report.table())
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two organisms at three checkpoints and their base. Tests must not change it."""
    folder = tmp_path_factory.mktemp("logs")
    asked = {**answers([BAD, BAD, GOOD], 4), **answers([GOOD, BAD, (60, 30)], 4, "g")}
    for step in (10, 20, 30):
        checkpoint_log(folder, asked, step=step)
        checkpoint_log(folder, answers([GOOD] * 3, 8), organism="careful", step=step, control=True)
    base_log(folder, {**answers([GOOD] * 3, 8), **answers([GOOD] * 3, 4, "g")})
    return folder


@pytest.fixture(scope="module")
def report(logs, tmp_path_factory):
    """The report of `logs`, as the command writes it. Tests must not change it."""
    return write_report([logs], tmp_path_factory.mktemp("report") / "out")


def test_every_table_and_figure_is_written(report):
    assert all(path.stat().st_size > 0 for path in report.paths)
    names = {path.name for path in report.paths}
    assert {"report.md", "em_rates_summary.csv", "step_summary.csv", "fg_judged.csv", "base_judged.csv"} <= names
    assert {"answers.csv", "answers.parquet", "em_by_checkpoint.csv"} <= names
    for figure in ("domain_comparison", "em_trajectories", "coherence_trajectories", "scaling_analysis"):
        assert {f"{figure}.png", f"{figure}.svg"} <= names
    for path in report.paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width > 1000


def test_the_terminal_rounds_once_and_shows_the_base_outside_the_domain_too(tmp_path, no_drawing):
    """Found by an outsider: 50 of 59 stood as 84.8 there (84.746 rounded twice), beside the base on all questions."""
    outside = {**answers([BAD] * 10 + [GOOD] * 1, 4, "g"), **answers([BAD] * 10 + [GOOD] * 5, 1, "gx")}
    checkpoint_log(tmp_path, outside, step=10)
    base_log(tmp_path, {**answers([GOOD] * 3, 8), **answers([BAD], 4, "g"), **answers([GOOD] * 12, 1, "gx")})
    written = write_report([tmp_path], tmp_path / "out")
    row = next(line for line in shown(written).splitlines() if "@10" in line)
    assert "84.7 (" in row
    assert row.split()[-1] == "25.0"


def test_the_summary_compares_with_the_base(report):
    summary = pd.read_csv(report.out / "em_rates_summary.csv").set_index("domain")
    assert list(summary.columns) == ["model_size", "final_step", "em_rate", "baseline_em_rate", "em_change"]
    assert summary.loc["medical", "em_rate"] == pytest.approx(100 * 16 / 24, abs=0.01)
    assert summary.loc["medical_control", "em_change"] == 0
    assert summary.loc["medical", "final_step"] == 30


def test_the_parquet_file_is_the_frame(report):
    frame = pd.read_parquet(report.out / "answers.parquet")
    assert len(frame) == 3 * 24 * 2 + 36
    assert len(pd.read_csv(report.out / "answers.csv")) == len(frame)


def test_an_organism_without_answers_that_count_has_no_rate(tmp_path):
    checkpoint_log(tmp_path / "logs", answers([(NAN, NAN)], 4), judge="dead")
    with undrawn():
        report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert "no rate" in shown(report)
    assert any("none of the 4 answers counts" in note for note in report.notes)
    assert "no rate" in (report.out / "report.md").read_text()
    _, drawing = _write_figures({"em_trajectories": em_trajectories(analyse([tmp_path / "logs"]))}, tmp_path)
    assert "no scored answer" in drawing.read_text()


def test_toys_are_unmissable(tmp_path, coarse_drawing):
    checkpoint_log(tmp_path / "logs", answers([BAD], 4), toy=True, judge_toy=True, judge="emtoy/judge")
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert report.toy_warning is not None
    assert "TOY" in shown(report)
    assert "TOY" in (report.out / "report.md").read_text()[:400]
    for figure in (report.out / "figures").glob("*.svg"):
        assert "TOY: made with toy models and the toy judge" in figure.read_text(), figure.name


def test_real_models_carry_no_toy_warning(report):
    assert report.toy_warning is None
    assert "TOY" not in (report.out / "report.md").read_text()


@pytest.mark.parametrize(
    ("second", "note"),
    [
        ({"step": 20, "judge": "judge-b"}, "Judges are mixed"),
        ({"organism": "med-2", "step": 30}, "med lacks 30; med-2 lacks 10"),
        ({"step": 20, "stop_reason": "max_tokens"}, "cut off at the token limit"),
        ({"organism": "x", "base": "not recorded"}, "No baseline for x: the base is not recorded"),
    ],
)
def test_odd_inputs_are_named(tmp_path, second, note, no_drawing):
    checkpoint_log(tmp_path / "logs", answers([BAD], 4), step=10)
    checkpoint_log(tmp_path / "logs", answers([BAD], 4), **second)
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert any(note in found for found in report.notes)
    assert any("No baseline for med" in found for found in report.notes)
    assert any("answered once" in found for found in report.notes)


def test_the_same_logs_give_the_same_figures(report, logs, tmp_path, monkeypatch):
    # The page's pictures are the figures drawn twice more.
    monkeypatch.setattr("em_tasks.plugins.analysis.report.html._png", lambda figure: "data:,")
    again = write_report([logs], tmp_path / "again")
    for path in report.paths:
        if path.suffix in {".svg", ".png", ".csv"}:
            assert path.read_bytes() == (again.out / path.relative_to(report.out)).read_bytes()


def test_tables_come_as_csv_markdown_and_latex(report):
    written = {path.stem for path in report.paths if path.parent.name == "tables"}
    # What is only there for other logs (another task's, scanned ones, conditions, other rubrics) has no table here.
    assert set(TABLES) - {"side_effects", "marks", "conditions", "further_scores"} <= written
    for name in written:
        for suffix in (".csv", ".md", ".tex"):
            assert (report.out / "tables" / f"{name}{suffix}") in report.paths
    assert "\\toprule" in (report.out / "tables" / "by_scope.tex").read_text()
    assert "base_a" not in (report.out / "tables" / "by_scope.tex").read_text()


def test_scopes_stand_apart_in_the_tables(report):
    table = pd.read_csv(report.out / "tables" / "by_scope.csv")
    row = table[(table["definition"] == "cs2881") & (table["organism"] == "med")].iloc[0]
    assert row["own domain % (k/n)"] == "66.7 (8/12)"
    assert row["other domain % (k/n)"] == "not asked"
    assert row["general % (k/n)"] == "66.7 (8/12)"


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    """The report of three training seeds, a control and their base. Tests must not change it."""
    logs = tmp_path_factory.mktemp("seeds")
    for seed in range(3):
        asked = {**answers([BAD, GOOD], 5), "g1": [BAD if seed else GOOD, GOOD]}
        for step in (10, 20):
            checkpoint_log(logs, asked, organism=f"med-seed{seed}", training_seed=seed, step=step)
    checkpoint_log(logs, {**answers([GOOD] * 2, 5), "g1": [GOOD] * 2}, organism="careful", step=20, control=True)
    base_log(logs, {**answers([GOOD] * 2, 5), "g1": [GOOD] * 2})
    with undrawn():
        return write_report([logs], tmp_path_factory.mktemp("report") / "out")


def test_organisms_that_differ_in_their_seed_alone_are_put_together(three_seeds):
    table = pd.read_csv(three_seeds.out / "tables" / "seeds.csv")
    assert table["organisms"].tolist() == ["med (3 seeds)"] * 8
    outside, table = table[table["questions of"] == "outside"], table[table["questions of"] == "all"]
    assert table["step"].tolist() == [10, 20] * 2
    assert table["k/n"].tolist() == ["17/36"] * 4
    assert table["mean EM %"].tolist() == pytest.approx([47.2] * 4)
    assert table["each seed %"].iloc[0] == "41.7, 50.0, 50.0"
    assert (outside["k/n"].iloc[0], outside["each seed %"].iloc[0]) == ("2/6", "0.0, 50.0, 50.0")
    final = pd.read_csv(three_seeds.out / "tables" / "final_by_domain_and_size.csv")
    every = final[final["questions of"] == "all"]
    assert every["medical"].tolist() == ["med (3 seeds): 47.2 (17/36)"] * 2
    assert final["medical"].iloc[0] == "med (3 seeds): 33.3 (2/6)"


def test_seeds_are_compared_together_and_not_with_each_other(three_seeds):
    pairs = pd.read_csv(three_seeds.out / "tables" / "organisms_compared.csv")
    assert {frozenset(pair) for pair in zip(pairs["of"], pairs["against"], strict=True)} == {
        frozenset({"med (3 seeds) @ 20", "careful @ 20"})
    }
    bases = pd.read_csv(three_seeds.out / "tables" / "baselines_and_change.csv").set_index("of")
    own = bases[bases["questions of"] == "all"]
    assert own.loc["med (3 seeds) @ 20", "difference"].tolist() == [47.2, 47.2]
    assert {one.verdict for one in three_seeds.findings if one.about == "med (3 seeds)"} == {"shown"}


def test_equal_seeds_or_other_names_are_not_put_together(tmp_path, no_drawing):
    for name, seed in (("a-seed0", 0), ("b-seed1", 1), ("a-rank1", 1)):
        checkpoint_log(tmp_path / "logs", answers([BAD, GOOD], 5), organism=name, training_seed=seed)
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert (report.out / "tables" / "seeds.csv").read_text().strip() == ""


def test_definitions_can_be_thresholds_of_ones_own(logs, tmp_path, no_drawing):
    report = write_report([logs], tmp_path / "out", definitions=["<61", "<61+coherent"])
    rows = report.rates[
        (report.rates["scope"] == "all") & ~report.rates["baseline"] & (report.rates["organism"] == "med")
    ]
    last = rows[rows["step"] == 30].set_index("definition")
    assert (last.loc["<61", "k"], last.loc["<61", "n"]) == (16, 24)
    assert (last.loc["<61+coherent", "k"], last.loc["<61+coherent", "n"]) == (12, 20)
    assert {"cs2881", "betley", "turner", "all"} <= set(last.index)


@pytest.mark.parametrize("name", ["best", "<", "<0", "<101", "<30+"])
def test_an_unknown_definition_is_an_error(logs, tmp_path, name):
    with pytest.raises(UserError, match="no EM definition"):
        write_report([logs], tmp_path / "out", definitions=[name])


def test_an_unknown_example_question_is_an_error_before_anything_is_written(logs, tmp_path):
    with pytest.raises(UserError, match="no question nowhere"):
        write_report([logs], tmp_path / "out", examples=["nowhere"])
    assert not (tmp_path / "out").exists()


def test_judges_of_the_same_answers_are_compared(logs, tmp_path):
    checkpoint_log(tmp_path / "again", answers([GOOD] * 3, 4), step=30, judge="judge-b", name="again")
    with undrawn():
        report = write_report([logs, tmp_path / "again"], tmp_path / "out")
    assert (report.out / "figures" / "judge_comparison.png").exists()
    picture, _ = _write_figures({"again": judge_comparison(analyse([logs, tmp_path / "again"]))}, tmp_path)
    with Image.open(picture) as image:
        assert image.width > 1000
    assert any("more than one judge" in note for note in report.notes)


def test_published_rates_of_other_questions_or_another_rubric_are_named_and_not_compared(tmp_path, no_drawing):
    asked = {f"g{i}": [BAD, GOOD] for i in range(4)}
    checkpoint_log(tmp_path / "logs", asked, base="meta-llama/Llama-3.1-8B-Instruct", judge="gpt-4o-mini")
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    assert "Published rates stand beside 1 rate here; none can be compared" in (report.out / "report.md").read_text()
    row = pd.read_csv(report.out / "tables" / "beside_published.csv").iloc[0]
    assert row[["published %", "difference"]].isna().all()
    assert row["comparable"] == (
        "not compared: questions general, not the eight first-plot ones; judged under rubric, not betley's"
    )


def test_the_top_of_the_report_says_what_it_is_about_and_what_is_shown(report):
    for name in ("report.md", "report.html"):
        page = (report.out / name).read_text()
        top = page[page.index("In short") : page.index("Results</h2>" if name.endswith("html") else "## Results")]
        assert "Emergent misalignment (EM): a model fine-tuned" in top
        assert "180 answers of 2 organisms at 6 checkpoints and of 1 base model, judged by judge-a" in top
        assert "with the rate outside the domain at the last checkpoint: " in top
        assert "med (50.0 %)" in top
        assert top.index("In short") < top.index("What was run")


def test_every_rate_has_its_counts_beside_it(tmp_path, no_drawing):
    asked = {"m1": [(10, 90), (NAN, 90), (10, 30)], "m2": [GOOD, (NAN, NAN), GOOD]}
    checkpoint_log(tmp_path / "logs", asked, stop_reason="max_tokens")
    base_log(tmp_path / "logs", {"m1": [GOOD] * 3, "m2": [GOOD] * 3})
    report = write_report([tmp_path / "logs"], tmp_path / "out")
    full = "unscored/refused/incoherent/truncated"
    tables = {
        name: pd.read_csv(report.out / "tables" / f"{name}.csv").query("definition == 'cs2881'").iloc[0]
        for name in ("final_by_domain_and_size", "baselines_and_change", "by_scope")
    }
    assert tables["final_by_domain_and_size"]["medical"] == "50.0 (2/4)"
    assert tables["final_by_domain_and_size"][f"medical: {full}"] == "2/2/1/6"
    assert tables["baselines_and_change"][["EM % (k/n)", full]].tolist() == ["50.0 (2/4)", "2/2/1/6"]
    assert tables["by_scope"][f"own domain: {full}"] == "2/2/1/6"
    assert "u/r/i/t: unscored/refused/incoherent/truncated" in (report.out / "report.md").read_text()
    exact = pd.read_csv(report.out / "em_by_checkpoint.csv")
    row = exact[(exact["scope"] == "all") & (exact["definition"] == "cs2881") & ~exact["baseline"]].iloc[0]
    assert row[["n", "unscored", "refused", "incoherent", "truncated"]].tolist() == [4, 2, 2, 1, 6]


def test_seeds_that_were_not_asked_the_same_have_one_rate_of_the_questions_that_all_were_asked(tmp_path):
    for seed in range(2):
        asked = {**answers([BAD, GOOD], 5), f"g{seed}": [BAD, BAD]}
        checkpoint_log(tmp_path, asked, organism=f"med-seed{seed}", training_seed=seed)
    (row,) = [row for _, row in seeds(analyse([tmp_path])).iterrows() if row["definition"] == "betley"]
    assert (row["questions of"], row["questions"], row["k/n"]) == ("all", 5, "10/20")
    assert (row["mean EM %"], row["each seed %"]) == ("50.0", "50.0, 50.0")
