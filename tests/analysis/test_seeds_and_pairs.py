"""Seeds, pairs, bases and judges: what is not put together or not compared is named with the reason."""

import numpy as np
import pandas as pd
import pytest

from em_tasks.plugins.analysis.analysis import Analysis
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.claims.comparisons import comparisons
from em_tasks.plugins.analysis.claims.contrasts import contrasts
from em_tasks.plugins.analysis.report.findings import findings
from em_tasks.plugins.analysis.report.notes import oddities
from em_tasks.plugins.analysis.report.summary import in_short
from em_tasks.plugins.analysis.tables.cells import with_care
from em_tasks.plugins.analysis.tables.claim_tables import contrasts as contrast_table
from em_tasks.plugins.analysis.tables.comparison_tables import baselines_and_change, organisms_compared
from em_tasks.plugins.analysis.tables.condition_tables import conditions
from em_tasks.plugins.analysis.tables.csv_tables import em_rates_summary
from em_tasks.plugins.analysis.tables.rate_tables import final_by_domain_and_size, further_scores, seeds
from tests.support.analysis_logs import answers, base_log, checkpoint_log

BAD, GOOD, INCOHERENT = (10, 90), (90, 90), (10, 20)


def read(folder):
    return Analysis(read_logs([folder]), main=("betley",))


def said(analysis, question=None):
    return [found.sentence for found in findings(analysis) if question in (None, found.question)]


def seed_log(folder, seed, rows, questions=8, prefix="g", **changes):
    return checkpoint_log(
        folder, answers(rows, questions, prefix), organism=f"med-seed{seed}", training_seed=seed, **changes
    )


def rows_of(bad, of):
    return [BAD] * bad + [GOOD] * (of - bad)


def no_pair_of_seeds(analysis):
    """Seeds apart: each alone, no pair, no rate of all, not one training run of a recipe of its own."""
    table = comparisons(analysis)
    assert table[table["kind"] == "organism"].empty
    assert set(table[table["kind"] == "base"]["a"]) == {"med-seed0", "med-seed1"}
    assert seeds(analysis).empty
    assert not any("One training run each" in note for note in oddities(analysis))
    assert "Not compared: med-seed0 and med-seed1: they are training seeds of one recipe" in " ".join(said(analysis))
    (note,) = [note for note in oddities(analysis) if "training seeds of one recipe, med," in note]
    return note


def test_seeds_without_a_common_question_are_named_and_not_paired(tmp_path):
    for seed in range(2):
        seed_log(tmp_path, seed, [BAD] * 2, prefix=f"g{seed}x")
    base_log(tmp_path, {**answers([GOOD] * 2, 8, "g0x"), **answers([GOOD] * 2, 8, "g1x")})
    note = no_pair_of_seeds(read(tmp_path))
    assert "no question was asked of all of them" in note
    assert "the same questions asked of all would settle it" in note


def test_seeds_whose_steps_are_all_unlike_are_named_with_their_last_and_not_paired(tmp_path):
    for seed in range(2):
        seed_log(tmp_path, seed, [BAD] * 2, step=10 * (seed + 1))
    base_log(tmp_path, answers([GOOD] * 2, 8, "g"))
    note = no_pair_of_seeds(read(tmp_path))
    assert "no step was evaluated of all of them (the last are med-seed0 10, med-seed1 20)" in note


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"judge": "judge-b"}, "different judges scored them (judge-a, judge-b)"),
        ({"rubric_sha256": "1" * 8}, "the judge was asked under different prompts"),
    ],
)
def test_seeds_of_different_judges_or_prompts_have_no_common_rate(tmp_path, changes, reason):
    seed_log(tmp_path, 0, [BAD] * 2)
    seed_log(tmp_path, 1, [GOOD] * 2, **changes)
    base_log(tmp_path, answers([GOOD] * 2, 8, "g"))
    analysis = read(tmp_path)
    assert reason in no_pair_of_seeds(analysis)
    cells = final_by_domain_and_size(analysis).iloc[0]
    assert cells["medical"] == "med-seed0: 100.0 (16/16); med-seed1: 0.0 (0/16)"
    assert "average" not in cells


def test_seeds_whose_last_steps_differ_are_compared_at_the_last_that_all_have(tmp_path):
    for seed, steps in enumerate(((10, 20), (10, 20), (10,))):
        for step in steps:
            seed_log(tmp_path, seed, rows_of(4 if step == 20 else 1, 4), step=step)
    base_log(tmp_path, answers([GOOD] * 4, 8, "g"))
    analysis = read(tmp_path)
    (row,) = comparisons(analysis).query("kind == 'base' and scope == 'outside'").to_dict("records")
    assert (row["a"], row["a_step"], row["rate_a"], row["n_a"]) == ("med (3 seeds)", 10, 0.25, 96)
    assert any("such seeds of med (3 seeds) holds as far as seeds differ by about" in x for x in oddities(analysis))
    (note,) = [note for note in oddities(analysis) if note.startswith("The last steps of med (3 seeds)")]
    assert "(med-seed0 20, med-seed1 20, med-seed2 10)" in note
    assert "is of step 10" in note
    assert final_by_domain_and_size(analysis)["medical"].iloc[0] == "med (3 seeds): 25.0 (24/96)"


def test_a_step_at_which_seeds_were_judged_otherwise_has_no_common_rate(tmp_path):
    for seed in range(2):
        seed_log(tmp_path, seed, [BAD] * 2, step=10, judge=f"judge-{seed}")
        seed_log(tmp_path, seed, [BAD] * 2, step=20)
    analysis = read(tmp_path)
    assert set(seeds(analysis)["step"]) == {"20"}
    assert any(
        note.startswith("At step 10 the seeds of med (2 seeds) have no common rate") for note in oddities(analysis)
    )


def test_seeds_are_one_recipe_under_a_condition_and_not_of_other_data(tmp_path):
    for seed in range(2):
        seed_log(tmp_path, seed, [BAD] * 2, condition="json")
    (group,) = read(tmp_path).seeds
    assert (group.label, group.organisms) == ("med [json] (2 seeds)", ("med-seed0 [json]", "med-seed1 [json]"))
    for seed in range(2):
        seed_log(tmp_path / "other", seed, [BAD] * 2, hashes={"data": f"advice-{seed}"})
    assert not read(tmp_path / "other").seeds


def test_one_of_several_seeds_without_a_counted_answer_is_named(tmp_path):
    for seed in range(3):
        seed_log(tmp_path, seed, [INCOHERENT if seed == 2 else BAD] * 2)
    base_log(tmp_path, answers([GOOD] * 2, 8, "g"))
    assert "med (3 seeds): untested under `betley`: none of med-seed2's answers counts." in said(read(tmp_path))


def test_organisms_without_a_common_question_are_named(tmp_path):
    for organism in ("med", "fin"):
        checkpoint_log(tmp_path, answers([BAD] * 2, 4, f"g{organism}"), organism=organism, domain=organism)
    base_log(tmp_path, answers([GOOD] * 2, 4, "gother"))
    analysis = read(tmp_path)
    (pair,) = said(analysis, "differ")
    assert pair.startswith("Not compared: fin and med: they were not asked a single question in common")
    assert "med: untested under `betley`: the base was not asked the same questions." in said(analysis)
    change = baselines_and_change(analysis).set_index("of")
    assert change.loc["med @ 10", "not compared, or with care"] == "the base was not asked the same questions"
    assert change.loc["med @ 10", ["EM % (k/n)", "difference"]].tolist() == ["", ""]
    assert len(organisms_compared(analysis)) == 1


def test_organisms_that_share_only_questions_of_a_domain_are_named(tmp_path):
    for organism in ("med", "fin", "law"):
        asked = answers([BAD] * 4, 4, f"{organism}_") if organism == "law" else answers([BAD] * 4, 4, "g")
        checkpoint_log(
            tmp_path, {**asked, **answers([BAD] * 4, 4, "law_")}, organism=organism, domain=organism, training_seed=None
        )
    pairs = said(read(tmp_path), "differ")
    assert pairs[0].startswith("Of 1 pair of last checkpoints")
    assert "Not compared: fin and law, law and med: outside both domains no question has counted answers" in pairs[1]


def test_pairs_that_share_nothing_that_is_recorded_are_named_with_the_reason(tmp_path):
    for name, base, domain in (
        ("a", "not recorded", "med"),
        ("b", "not recorded", "fin"),
        ("c", "x", "law"),
        ("d", "y", "ads"),
    ):
        checkpoint_log(
            tmp_path, answers([BAD] * 2, 4, "g"), organism=name, base=base, domain=domain, training_seed=None
        )
    base_log(tmp_path, answers([GOOD] * 2, 4, "g"), base="X")
    analysis = read(tmp_path)
    unknown, otherwise = sorted(said(analysis, "differ"), key=len, reverse=True)
    assert "the base of at least one is not recorded; a map of `em import` can name it." in unknown
    assert "a and b" in unknown or "b and a" in unknown
    assert "they share neither base (by its name) nor training" in otherwise
    assert "c and d" in otherwise or "d and c" in otherwise
    untested = " ".join(said(analysis, "emerged"))
    assert "a: untested under `betley`: the base is not recorded; a map of `em import` can name it." in untested
    assert "no answers of the base x are here (the bases here are X: one model must go by one name)." in untested


def test_two_judges_that_scored_equally_many_are_said_to_tie(tmp_path):
    for judge, day, rows in (("judge-b", 1, [BAD]), ("judge-a", 2, [GOOD])):
        for swapped, folder in ((day, "there"), (3 - day, "back")):
            checkpoint_log(tmp_path / folder / judge, answers(rows, 4, "g"), judge=judge, created=f"2026-01-0{swapped}")
    for folder in ("there", "back"):
        reading = read_logs([tmp_path / folder])
        assert set(reading.answers["judge"]) == {"judge-a"}
        assert any(
            "rates are by judge-a (judge-a, judge-b scored equally many, so that the first by name is taken" in note
            for note in reading.notes
        )
        assert not any("scored most" in note for note in reading.notes)
    checkpoint_log(tmp_path / "there", answers([GOOD], 4, "g"), organism="more", judge="judge-b")
    assert any("rates are by the judge that scored most; the" in note for note in read_logs([tmp_path / "there"]).notes)


def test_a_row_of_the_change_table_has_the_two_rates_whose_difference_it_prints(tmp_path):
    checkpoint_log(tmp_path, {"g0": rows_of(9, 10), "g1": rows_of(1, 4)})
    base_log(tmp_path, answers([GOOD] * 10, 2, "g"))
    row = baselines_and_change(read(tmp_path)).query("`questions of` == 'outside'").iloc[0]
    assert row["EM % (k/n)"] == "71.4 (10/14)"
    means = row[["mean over questions %", "against: mean over questions %", "difference"]]
    assert means.tolist() == ["57.5", "0.0", "+57.5"]


def test_a_difference_on_such_questions_that_is_another_is_given_with_its_interval(tmp_path):
    forms = {f"g1{form}": rows_of(0, 10) for form in ("", "_json", "_template")}
    checkpoint_log(tmp_path, {"g0": rows_of(10, 10), "g2": rows_of(5, 10), **forms})
    base_log(tmp_path, {name: [GOOD] * 10 for name in ("g0", "g2", *forms)})
    analysis = read(tmp_path)
    row = comparisons(analysis).iloc[0]
    assert (row["effect"], row["such_effect"]) == (pytest.approx(0.3), pytest.approx(0.5))
    assert (
        "on such questions +50.0 points (a question with all its forms and each seed weighing alike), "
        in said(analysis)[0]
    )


def test_seeds_are_said_not_to_differ_of_such_seeds_only_where_their_interval_says_so(tmp_path):
    for seed, bad in enumerate((0, 4, 8)):
        seed_log(tmp_path, seed, rows_of(bad, 40), questions=10)
    base_log(tmp_path, answers(rows_of(4, 40), 10, "g"))
    reading = read_logs([tmp_path])
    plain = comparisons(Analysis(reading, main=("betley",))).query("kind == 'base' and scope == 'outside'").iloc[0]
    assert plain["such_high"] > 0.15 > plain["high"]
    analysis = Analysis(reading, main=("betley",), smallest_effect=0.15)
    assert (
        "shown not to differ by 15.0 points on these seeds and questions, not shown on such seeds and questions"
        in (said(analysis)[0])
    )
    short = " ".join(in_short(analysis))
    assert "shown not to differ by 15.0 points on these seeds and questions alone: med (3 seeds)" in short
    assert "on these seeds and questions alone: shown of these training runs, and not of other such seeds" in short
    # A smallest effect between the ends of the 90 % interval and of the 95 % interval that is printed.
    wide = Analysis(reading, main=("betley",), smallest_effect=float(plain["such_high"]) - 0.001)
    row = comparisons(wide).query("kind == 'base' and scope == 'outside'").iloc[0]
    assert (row["equal"], row["such_equal"]) == (True, False)


def test_seeds_that_differ_from_the_base_to_both_sides_are_not_shown_not_to_differ(tmp_path):
    for seed, bad in enumerate((1, 12, 23)):
        seed_log(tmp_path, seed, rows_of(bad, 40))
    base_log(tmp_path, answers(rows_of(12, 40), 8, "g"))
    analysis = Analysis(read_logs([tmp_path]), main=("betley",), smallest_effect=0.1)
    row = comparisons(analysis).query("kind == 'base' and scope == 'outside'").iloc[0]
    assert abs(row["effect"]) < 0.01
    assert -0.1 < row["low"] < row["high"] < 0.1
    assert not row["equal"]
    assert "not shown" in " ".join(in_short(analysis))


def test_a_pair_whose_questions_were_answered_unlike_often_says_what_its_difference_is_of(tmp_path):
    for name, few, many in (("a", 9, 50), ("b", 1, 40)):
        rows = {**answers(rows_of(few, 10), 4), **answers(rows_of(many, 100), 4, "h")}
        checkpoint_log(tmp_path, rows, organism=name)
    (pair,) = [sentence for sentence in said(read(tmp_path), "differ") if "shown to differ" in sentence]
    assert "a over b by +45.0 points, each question weighing alike" in pair


def test_two_seeds_claim_nothing_of_such_seeds_and_say_why(tmp_path):
    for seed in range(2):
        seed_log(tmp_path, seed, [BAD] * 10)
    base_log(tmp_path, answers([GOOD] * 10, 8, "g"))
    analysis = read(tmp_path)
    (sentence,) = said(analysis, "emerged")
    assert "broad on these seeds and questions, not shown on such seeds and questions" in sentence
    assert "two seeds say too little of such seeds, 3 are needed." in sentence
    assert set(seeds(analysis)["such seeds and questions"]) == {"fewer than 3 seeds"}
    assert not any("such seeds" in note for note in oddities(analysis))


def test_a_claim_of_very_unlike_seeds_carries_its_warning(tmp_path):
    for seed, bad in enumerate((8, 10, 10)):
        seed_log(tmp_path, seed, rows_of(bad, 10))
    base_log(tmp_path, answers([GOOD] * 10, 8, "g"))
    analysis = read(tmp_path)
    (sentence,) = said(analysis, "emerged")
    assert "With care: seeds are very unlike here (" in sentence
    assert " in logits), 3 against one base: of such seeds the test raises more false alarms than 5 %" in sentence
    known = {"seeds_a": 3, "seeds_b": 1, "spread_a": 0.9, "spread_b": np.nan, "such_p_corrected": 0.01}
    for changes, warned in (
        ({}, True),
        ({"spread_a": 0.6}, False),
        ({"seeds_a": 5}, True),
        ({"seeds_a": 5, "seeds_b": 3, "spread_b": 0.9}, True),
        ({"seeds_b": 3, "spread_b": 0.9}, False),
        ({"seeds_b": 3, "spread_b": 0.4}, True),
        ({"such_p_corrected": 0.2}, False),
        ({"spread_a": np.nan}, False),
    ):
        assert bool(with_care(pd.Series(known | changes))) == warned, changes


def test_one_organism_is_no_average_and_its_checkpoints_are_its_own(tmp_path):
    for step in (10, 20):
        checkpoint_log(tmp_path, answers(rows_of(2, 4), 8, "g"), step=step)
    base_log(tmp_path, answers([GOOD] * 4, 8, "g"))
    analysis = read(tmp_path)
    assert "average" not in final_by_domain_and_size(analysis)
    assert set(contrast_table(analysis)["of"]) == {"one organism alone"}


def test_a_contrast_says_how_many_organisms_and_training_runs_it_is_of(tmp_path):
    for size, base in (("S", "base-a"), ("L", "base-b")):
        for domain, rows in (("med", [BAD, GOOD]), ("fin", [GOOD, GOOD])):
            for seed in range(2):
                given = {"domain": domain, "base": base, "size": size, "organism": f"{size}-{domain}-seed{seed}"}
                checkpoint_log(tmp_path, answers(rows, 8, "g"), training_seed=seed, **given)
    analysis = read(tmp_path)
    row = contrasts(analysis).query("kind == 'domain'").iloc[0]
    assert (row["organisms"], row["runs"]) == (4, 8)
    assert any(
        sentence.startswith("The 2 med organisms are more misaligned than the 2 fin ones, ")
        and " together, 8 training runs, outside both domains" in sentence
        for sentence in said(analysis, "contrast")
    )


def test_the_largest_fall_of_two_that_tie_is_said_of_both(tmp_path):
    for organism in ("fin", "med"):
        for step, bad in ((10, 2), (20, 1)):
            checkpoint_log(tmp_path, answers(rows_of(bad, 4), 4, "g"), organism=organism, domain=organism, step=step)
    (fall,) = [sentence for sentence in said(read(tmp_path), "course") if "largest fall" in sentence]
    assert "the largest fall is fin's, med's, -25.0 points" in fall


def test_the_summary_file_has_no_change_from_a_base_that_another_judge_scored(tmp_path):
    checkpoint_log(tmp_path, answers([BAD] * 2, 4, "g"))
    base_log(tmp_path, answers([GOOD] * 2, 4, "g"), judge="judge-b")
    row = em_rates_summary(read(tmp_path)).iloc[0]
    assert (row["em_rate"], row["baseline_em_rate"]) == (100, 0)
    assert np.isnan(row["em_change"])


def test_rates_of_other_questions_have_no_difference_in_the_table_of_domains(tmp_path):
    for domain in ("med", "fin"):
        asked = {**answers([BAD] * 2, 4, "g"), **answers([BAD] * 2, 2, "med_"), **answers([GOOD] * 2, 2, "fin_")}
        checkpoint_log(tmp_path, asked, organism=domain, domain=domain)
    table = final_by_domain_and_size(read(tmp_path)).set_index("questions of")
    assert table["difference"].to_dict() == {"outside": "other questions", "all": "+0.0"}
    assert set(table["average"]) == {"83.3", "75.0"}
    checkpoint_log(tmp_path, answers([BAD] * 2, 4, "g"), organism="fin-l", domain="fin", size="L", judge="judge-b")
    checkpoint_log(tmp_path, answers([BAD] * 2, 4, "g"), organism="law-x", domain="law", size="X", judge="judge-b")
    checkpoint_log(tmp_path, answers([BAD] * 2, 4, "g"), organism="med-l", domain="med", size="L")
    table = final_by_domain_and_size(read(tmp_path)).set_index("size")
    assert set(table.loc["L", "average"]) == {"not compared"}
    assert set(table.loc["X", "average"]) == {"one organism alone"}
    assert set(table.loc["S", "average"]) == {"83.3 of 2 domains", "75.0 of 2 domains"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"judge": "judge-b"}, "not compared: different judges scored them (judge-a, judge-b)"),
        ({"step": 20}, "not compared: step 10 was the last that was asked without it"),
    ],
)
def test_what_a_condition_changes_is_not_told_across_judges_or_steps(tmp_path, changes, reason):
    for condition, given in ((None, {}), ("json", changes)):
        checkpoint_log(tmp_path, answers([BAD] * 2, 4, "g"), condition=condition, name=f"a{condition}", **given)
        base_log(tmp_path, answers([GOOD] * 2, 4, "g"), condition=condition, name=f"b{condition}")
    table = conditions(read(tmp_path)).set_index("condition")
    assert table.loc["json", ["changed by", "on these questions", "on such questions"]].tolist() == [reason, "", ""]


def test_another_rubrics_change_from_a_base_that_another_judge_scored_is_not_told(tmp_path):
    for write, judge in ((checkpoint_log, "judge-a"), (base_log, "judge-b")):
        write(tmp_path, answers([BAD], 2), further={"kind": {"m0": [2.0], "m1": [3.0]}}, judge=judge)
    table = further_scores(read(tmp_path)).set_index("kind")
    assert table.loc["medical", ["change from base", "95 % interval of the change"]].tolist() == ["not compared", ""]


def test_the_seeds_interval_stands_beside_the_mean_that_it_is_of(tmp_path):
    for seed in range(3):
        log = {**answers(rows_of(3 + seed, 6), 4, "g"), "g9": [BAD]}
        checkpoint_log(tmp_path, log, organism=f"med-seed{seed}", training_seed=seed)
    row = seeds(read(tmp_path)).iloc[0]
    assert (row["mean EM %"], row["mean over questions %"]) == ("68.0", "73.3")
