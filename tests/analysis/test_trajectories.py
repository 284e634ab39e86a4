"""Trajectories: a true fall is found, chance and a rise are not called one, and p is a share of all deals."""

import itertools
from math import comb

import numpy as np
import pytest

from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.claims.published import correlation_of
from em_tasks.plugins.analysis.figures import heatmap, style, thresholds
from em_tasks.plugins.analysis.figures.final import domain_comparison, scaling_analysis
from em_tasks.plugins.analysis.figures.quadrants import coherence_vs_misalignment
from em_tasks.plugins.analysis.figures.trajectory import coherence_trajectories, em_trajectories
from em_tasks.plugins.analysis.statistics.trajectories import largest_moves
from tests.support.analysis_logs import answers, base_log, checkpoint_log

N = np.full((6, 8), 50.0)


def course(rates, seed=1):
    rng = np.random.default_rng(seed)
    return rng.binomial(50, np.repeat(np.array(rates)[:, None], 8, axis=1)).astype("float64")


def test_a_fall_of_twenty_points_is_found():
    moves = largest_moves(course([0.05, 0.3, 0.4, 0.3, 0.2, 0.2]), N)
    assert moves.fall_p < 0.01
    assert (moves.fall_from, moves.fall_to) in {(2, 4), (2, 5)}


def test_a_leap_between_neighbours_is_found():
    moves = largest_moves(course([0.05, 0.05, 0.05, 0.4, 0.4, 0.4]), N)
    assert moves.rise_p < 0.01
    assert moves.rise_to == 3


def test_flat_and_rising_courses_are_not_said_to_fall():
    for seed in range(10):
        assert largest_moves(course([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], seed), N).fall_p > 0.5
    flat = [largest_moves(course([0.3] * 6, seed), N).fall_p < 0.05 for seed in range(60)]
    assert sum(flat) <= 7


def test_p_is_the_share_of_all_deals_that_move_as_far():
    k = np.array([[2.0, 1], [0, 1], [0, 0]])
    n = np.full((3, 2), 2.0)
    exact = 0.0
    deals = [d for d in itertools.product(range(3), repeat=3) if sum(d) == 2]
    weight = {d: np.prod([comb(2, x) for x in d]) / comb(6, 2) for d in deals}
    for one, two in itertools.product(deals, deals):
        rates = (np.array(one) + np.array(two)) / 4
        fall = max(0, rates[0] - rates[1], rates[0] - rates[2], rates[1] - rates[2])
        exact += weight[one] * weight[two] * (fall >= 0.75 - 1e-9)
    assert largest_moves(k, n).fall == pytest.approx(0.75)
    assert largest_moves(k, n).fall_p == pytest.approx(exact, abs=0.02)


def test_the_same_answers_give_the_same_p():
    assert largest_moves(course([0.3] * 6), N) == largest_moves(course([0.3] * 6), N)


def test_no_two_of_a_figures_names_have_one_colour_and_one_marker():
    names = [f"{number}B" for number in range(36)]
    assert len({(hue, style.marker(at)) for at, hue in enumerate(style.colours(names).values())}) == 36


def test_points_that_different_judges_scored_are_neither_joined_nor_averaged(tmp_path):
    scores = {"m1": [(10, 90), (90, 80)], "m2": [(90, 70), (80, 60)], "g1": [(20, 90), (90, 95)]}
    for step, judge in ((10, "a"), (20, "a"), (30, "b"), (40, "b")):
        checkpoint_log(tmp_path, scores, step=step, judge=judge)
    checkpoint_log(tmp_path, scores, "large", size="M", parameters=2000, base="base-b", judge="a", step=10)
    analysis = analyse([tmp_path])
    for figure in (em_trajectories(analysis), coherence_trajectories(analysis)):
        med = [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o"]
        assert [len(steps) for steps in med] == [2, 2]
        assert "What different judges" in figure.texts[-1].get_text().replace("\n", " ")
    joined = [
        list(line.get_ydata()) for line in scaling_analysis(analysis).axes[0].lines if line.get_linestyle() == "-"
    ]
    assert sorted(map(len, joined)) == [1, 1]
    assert [judge for _, judge in correlation_of(analysis)] == ["a", "b"]
    titles = [panel.get_title("left") for panel in coherence_vs_misalignment(analysis).axes if panel.get_visible()]
    assert titles == ["medical, a (n = 18)", "medical, b (n = 12)"]


def test_figures_of_very_many_organisms_leave_out_what_nobody_could_see(tmp_path, monkeypatch):
    for place in range(4):
        for step in (10, 20):
            checkpoint_log(tmp_path, {"m1": [(10, 90), (90, 80)]}, f"o{place}", step=step, training_seed=None)
    analysis = analyse([tmp_path])
    whole = heatmap.question_heatmap(analysis)
    assert whole.axes[0].images[0].get_array().shape == (1, 8)
    assert "more organisms" not in whole.texts[-1].get_text()
    assert len(thresholds.threshold_sensitivity(analysis).axes[0].collections) == 4
    monkeypatch.setattr(heatmap, "MOST_CHECKPOINTS", 5)
    monkeypatch.setattr(thresholds, "MOST_BANDS", 3)
    some, bandless = heatmap.question_heatmap(analysis), thresholds.threshold_sensitivity(analysis)
    assert some.axes[0].images[0].get_array().shape == (1, 4)
    assert "2 more organisms are in answers.csv" in some.texts[-1].get_text().replace("\n", " ")
    assert len(bandless.axes[0].collections) == 0
    assert "none where a panel has more than 3 curves" in bandless.texts[-1].get_text().replace("\n", " ")
    some.set_size_inches(500, 10)
    assert style.dots_per_inch(some, 200) == 20
    some.set_size_inches(10, 5)
    assert style.dots_per_inch(some, 200) == 200


def test_seeds_of_one_recipe_share_a_colour_and_recipes_do_not(tmp_path):
    for recipe, seed, step in itertools.product(("mild", "wild"), (0, 1, 2), (10, 20)):
        name = f"{recipe}-seed{seed}"
        checkpoint_log(tmp_path, {"g1": [(10, 90)] * (seed + 1)}, name, step=step, training_seed=seed)
    base_log(tmp_path, {"g1": [(90, 90)] * 2, "g2": [(90, 90)]})
    analysis = analyse([tmp_path])
    recipes = ["mild (3 seeds)", "wild (3 seeds)"]
    for figure in (domain_comparison(analysis), scaling_analysis(analysis), thresholds.threshold_sensitivity(analysis)):
        assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == recipes
    assert "Lines join" not in scaling_analysis(analysis).texts[-1].get_text()  # of one size there is none
    coherence = coherence_trajectories(analysis).axes[0]
    marked = [line for line in coherence.lines if line.get_marker() in ("o", "s")]
    assert [line.get_xdata()[0] for line in marked] == [0, 0]  # the base, once a recipe and in its place
    assert len([line for line in coherence.lines if line.get_linewidth() < 1 and line.get_linestyle() == "-"]) == 6


def test_cells_that_nobody_scored_have_no_colour_that_a_score_has(tmp_path):
    checkpoint_log(tmp_path, {"g1": [(10, 90)]}, "one")
    checkpoint_log(tmp_path, {"g2": [(50, 90)]}, "other")
    figure = heatmap.question_heatmap(analyse([tmp_path]))
    assert figure.axes[0].patch.get_hatch()
    assert "hatched: not scored, not asked" in figure.texts[-1].get_text().replace("\n", " ")


def test_organisms_of_one_size_and_domain_have_lines_of_their_own(tmp_path):
    for name in ("one", "other"):
        for step in (10, 20):
            checkpoint_log(
                tmp_path, answers([(10, 90), (90, 90)], 2, "g"), organism=name, step=step, training_seed=None
            )
    figure = em_trajectories(analyse([tmp_path]))
    colours = {line.get_color() for line in figure.axes[0].lines if line.get_marker() in style.MARKERS}
    assert len(colours) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "other"]


def test_every_figure_gives_a_size_the_same_colour_in_the_order_of_sizes(tmp_path):
    for size, parameters in (("L", 3000), ("M", 2000), ("S", 1000)):
        changes = {"base": f"base-{size}", "size": size, "parameters": parameters}
        base_log(tmp_path, answers([(90, 90)], 3), **changes)
        checkpoint_log(tmp_path, answers([(10, 90)], 3), organism=f"med-{size}", **changes)
    analysis = analyse([tmp_path])
    legends = []
    for draw in (em_trajectories, coherence_trajectories, thresholds.threshold_sensitivity):
        legend = draw(analysis).legends[0]
        handles = zip(legend.get_texts(), legend.get_lines(), strict=True)
        legends.append([(text.get_text(), line.get_color()) for text, line in handles])
    assert [name for name, _ in legends[0]] == ["S", "M", "L"]
    assert legends[0] == legends[1] == legends[2]
