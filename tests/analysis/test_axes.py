"""The axes of a grid in the report: read from logs, shown as columns, drawn against."""

from itertools import product
from math import nan
from pathlib import Path

import pytest
from matplotlib.axes import Axes

from em_tasks.plugins.analysis.analysis import Analysis, analyse
from em_tasks.plugins.analysis.answers.grid_cells import GridCells
from em_tasks.plugins.analysis.answers.logs import read_logs
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
    ticks = {ranks: (1.0, 8.0, 64.0), bases: (0.0, 1.0)}
    lines = {
        tuple(
            (min(ticks[axes], key=lambda tick: abs(tick - x)), float(y))
            for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        )
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


AXES = {"dose": [0, 0.25, 1], "rate": ["low", "medium", "high"], "domain": ["plants", "cats"], "where": ["b", "a"]}


def full(folder: Path, names: tuple[str, ...]) -> Analysis:
    """A cell for all values of these axes of `AXES`, ten answers each but of the dose 1, which has nine."""
    for number, values in enumerate(product(*(AXES[name] for name in names))):
        answers = 9 if values[0] == 1 else 10
        checkpoint_log(
            folder,
            {"g1": [BAD] * (number % 9) + [GOOD] * (answers - number % 9)},
            organism="-".join(map(str, values)),
            base="base-S",
            size="S",
            hashes={"axes": dict(zip(names, values, strict=True))},
        )
    base_log(folder, {"g1": [GOOD] * 9 + [BAD]}, base="base-S", size="S")
    judges = {("-".join(map(str, values)), None): ("j",) for values in product(*(AXES[name] for name in names))}
    cells = GridCells(judges | {(None, None): ("j",)}, {name: tuple(AXES[name]) for name in names})
    return Analysis(read_logs([folder], cells))


def joined(panel: Axes) -> list[tuple[str, str, str]]:
    """Colour, marker and kind of the lines that join means in a panel."""
    lines = [line for line in panel.get_lines() if len(line.get_xdata()) > 1 and line.get_marker() not in ("None", "_")]
    return [(str(line.get_color()), str(line.get_marker()), str(line.get_linestyle())) for line in lines]


def test_values_stand_in_the_order_of_the_grids_file_in_tables_and_figures(tmp_path: Path) -> None:
    analysis = full(tmp_path, ("dose", "rate", "domain"))
    table = by_axes(analysis)
    assert list(dict.fromkeys(table["rate"])) == ["low", "medium", "high"]
    assert list(table["domain"])[:4:2] == ["plants", "cats"]
    figure = em_against_axes(analysis)
    assert figure is not None
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == ["low", "medium", "high"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][3:] == [
        "rate low",
        "rate medium",
        "rate high",
        "domain plants",
        "domain cats",
    ]


def test_of_three_axes_colour_marker_and_kind_of_line_tell_every_line_apart(tmp_path: Path) -> None:
    figure = em_against_axes(full(tmp_path, ("dose", "rate", "domain")))
    assert figure is not None
    by_dose, _, by_rate, _, by_domain, _ = figure.axes
    assert [len(joined(panel)) for panel in (by_dose, by_rate, by_domain)] == [3 * 2, 3 * 2, 3 * 3]
    for panel in (by_dose, by_rate, by_domain):
        assert len(set(joined(panel))) == len(joined(panel))
    # Each part of a look says one axis, the same in every row.
    assert [len({look[part] for look in joined(by_domain)}) for part in (0, 1, 2)] == [3, 3, 1]
    assert {look[0] for look in joined(by_rate)} == {look[0] for look in joined(by_domain)}
    assert len({look[0] for look in joined(by_dose)}) == 1
    labels = [text.get_text() for text in by_dose.texts]
    assert labels == ["base base-S"]
    caption = figure.texts[-1].get_text().replace("\n", " ")
    assert caption.startswith("n = 9 to 10 answers an organism, last checkpoints")
    assert "Not drawn" not in caption


def test_a_fourth_axis_has_a_panel_a_value(tmp_path: Path) -> None:
    figure = em_against_axes(full(tmp_path, ("dose", "rate", "domain", "where")))
    assert figure is not None
    shown = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_xlabel() for panel in shown] == ["dose"] * 4 + ["rate"] * 4 + ["domain"] * 4 + ["where"] * 2
    assert [panel.get_title(loc="left").partition("\n")[2] for panel in shown[:4]] == ["where b", "where a"] * 2
    for panel in shown:
        assert len(set(joined(panel))) == len(joined(panel))


def test_values_without_a_rate_are_named(tmp_path: Path) -> None:
    unscored = {"g1": [(nan, nan)] * 3}
    for dose in (0, 0.5, 1):
        for rate, answers in (("low", {"g1": [BAD] * 3}), ("high", {"g1": [GOOD] * 3}), ("odd", unscored)):
            axes = {"dose": dose, "rate": rate}
            checkpoint_log(tmp_path, answers, organism=f"{rate}{dose}", hashes={"axes": axes})
    base_log(tmp_path, {"g1": [GOOD] * 3})
    figure = em_against_axes(analyse([tmp_path]))
    assert figure is not None
    assert "Not drawn: rate odd (" in figure.texts[-1].get_text().replace("\n", " ")
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["rate high", "rate low"]


def test_logs_of_no_grid_have_neither_table_nor_figure_and_odd_axes_leave_a_log_out(tmp_path: Path) -> None:
    checkpoint_log(tmp_path, {"g1": [BAD] * 2})
    checkpoint_log(tmp_path, {"g1": [BAD]}, organism="odd", hashes={"axes": {"dose": [1, 2]}})
    plain = analyse([tmp_path])
    assert em_against_axes(plain) is None
    assert by_axes(plain).empty
    assert plain.axes.empty
    assert any("odd_10.eval was left out. Its metadata is odd: axes.dose" in note for note in plain.reading.notes)
