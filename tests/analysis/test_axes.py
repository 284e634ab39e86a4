"""The axes of a grid in the report: read from logs, shown as columns, drawn against."""

from pathlib import Path

import pytest

from em_tasks.plugins.analysis.analysis import Analysis, analyse
from em_tasks.plugins.analysis.figures.axes import em_against_axes
from em_tasks.plugins.analysis.tables.rate_tables import by_axes
from tests.support.analysis_logs import base_log, checkpoint_log

SIZES = {"S": 1000, "M": 2000}
BAD, GOOD = (10.0, 90.0), (90.0, 90.0)


def grid(folder: Path) -> Analysis:
    """Ranks 1, 8 and 64 on two bases, two seeds each: of four answers, misaligned are as many as the table says."""
    misaligned = {("S", 1): (0, 0), ("S", 8): (1, 3), ("S", 64): (4, 4), ("M", 1): (0, 2), ("M", 64): (2, 2)}
    for (base, rank), counts in misaligned.items():
        for seed, bad in enumerate(counts):
            checkpoint_log(
                folder,
                {"g1": [BAD] * bad + [GOOD] * (4 - bad)},
                organism=f"r{rank}-{base}-seed{seed}",
                base=f"base-{base}",
                size=base,
                parameters=SIZES[base],
                training_seed=seed,
                hashes={"axes": {"lora.r": rank, "base": base, "seed": seed, "same": True}},
            )
    for base in ("S", "M"):
        base_log(folder, {"g1": [GOOD] * 4}, base=f"base-{base}", size=base, parameters=SIZES[base])
    checkpoint_log(folder, {"g1": [BAD] * 4}, organism="alone", base="base-S", size="S")
    return analyse([folder])


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return grid(tmp_path_factory.mktemp("axes"))


def test_axes_of_several_values_are_columns_and_organisms_of_no_grid_have_no_row(analysis: Analysis) -> None:
    assert list(analysis.axes.columns) == ["lora.r", "base", "seed"]
    table = by_axes(analysis)
    assert list(table.columns)[:5] == ["definition", "lora.r", "base", "seed", "questions of"]
    betley = table[(table["definition"] == "betley") & (table["questions of"] == "outside")]
    assert len(betley) == 10
    (row,) = betley[(betley["base"] == "S") & (betley["lora.r"] == 8) & (betley["seed"] == 1)].to_dict("records")
    assert (row["EM %"], row["k"], row["n"]) == ("75.0", 3, 4)
    assert "alone" not in set(betley["organism"])


def test_figure_draws_means_over_seeds_against_each_axis_ranks_on_a_logarithmic_one(analysis: Analysis) -> None:
    figure = em_against_axes(analysis)
    assert figure is not None
    assert [axes.get_xlabel() for axes in figure.axes] == ["lora.r", "lora.r", "base", "base"]
    ranks, _, bases, _ = figure.axes
    assert (ranks.get_xscale(), bases.get_xscale()) == ("log", "linear")
    assert [label.get_text() for label in ranks.get_xticklabels()] == ["1", "8", "64"]
    assert [label.get_text() for label in bases.get_xticklabels()] == ["S", "M"]
    lines = {
        tuple(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))
        for axes in (ranks, bases)
        for line in axes.get_lines()
        if line.get_linestyle() == "-" and len(line.get_xdata()) > 1
    }
    assert ((1.0, 0.0), (8.0, 50.0), (64.0, 100.0)) in lines
    assert ((1.0, 25.0), (64.0, 50.0)) in lines
    assert ((0.0, 100.0), (1.0, 50.0)) in lines  # Rank 64 on S and on M.
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "base S",
        "base M",
        "lora.r 1",
        "lora.r 8",
        "lora.r 64",
    ]
    # What a colour means in one row it means in every row.
    assert len({handle.get_color() for handle in figure.legends[0].legend_handles}) == 5
    points = {float(line.get_xdata()[0]) for line in ranks.get_lines() if len(line.get_xdata()) == 1}
    assert len(points) == 10  # Seeds stand beside each other.


def test_logs_of_no_grid_have_neither_table_nor_figure_and_odd_axes_leave_a_log_out(tmp_path: Path) -> None:
    checkpoint_log(tmp_path, {"g1": [BAD] * 2})
    checkpoint_log(tmp_path, {"g1": [BAD]}, organism="odd", hashes={"axes": {"dose": [1, 2]}})
    plain = analyse([tmp_path])
    assert em_against_axes(plain) is None
    assert by_axes(plain).empty
    assert plain.axes.empty
    assert any("odd_10.eval was left out. Its metadata is odd: axes.dose" in note for note in plain.reading.notes)
