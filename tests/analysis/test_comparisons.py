"""Claims: verdicts outside and inside the domain for both populations, their families, and what is refused."""

import math
import re

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from em_tasks.plugins.analysis.analysis import Analysis, analyse
from em_tasks.plugins.analysis.answers.logs import read_logs
from em_tasks.plugins.analysis.claims.comparisons import comparisons, holm, verdicts
from em_tasks.plugins.analysis.claims.contrasts import contrasts
from em_tasks.plugins.analysis.claims.courses import courses
from em_tasks.plugins.analysis.claims.verdicts import MEANINGS
from em_tasks.plugins.analysis.report.findings import findings
from em_tasks.plugins.analysis.report.markdown import calibration_lines
from em_tasks.plugins.analysis.report.notes import oddities
from em_tasks.plugins.analysis.report.summary import in_short
from em_tasks.plugins.analysis.statistics.differences import Sides, no_surer_than, on_such, on_these
from em_tasks.plugins.analysis.statistics.seed_intervals import seed_difference
from em_tasks.plugins.analysis.tables import claim_tables, rate_tables
from em_tasks.plugins.analysis.tables.cells import whole
from tests.support.analysis_logs import NAN, answers, base_log, checkpoint_log

BAD, GOOD, UNSCORED, INCOHERENT = (10, 90), (90, 90), (NAN, NAN), (10, 20)


def asked(inside, outside, questions=8):
    """The same answers to each of so many questions inside the domain and outside."""
    return {**answers(inside, questions), **answers(outside, questions, "g")}


def word(analysis, definition="betley", organism="med"):
    found = next(one for one in verdicts(analysis) if (one.definition, one.organism) == (definition, organism))
    return found.these, found.such


def sentences(analysis, about="med"):
    return " ".join(one.sentence for one in findings(analysis) if one.about == about)


@pytest.fixture
def first_plot(tmp_path):
    """Seven organisms and the published protocol: 8 questions x 50, every answer bad against none of the base's."""
    for number in range(7):
        checkpoint_log(tmp_path, answers([BAD] * 50, 8, "g"), organism=f"med-{number}", training_seed=None)
    base_log(tmp_path, answers([GOOD] * 50, 8, "g"))
    return analyse([tmp_path])


def test_eight_questions_by_fifty_answers_can_show_emergent_misalignment(first_plot):
    table = comparisons(first_plot)
    own = table[(table["kind"] == "base") & (table["definition"] == "betley")]
    assert len(own[own["scope"] == "outside"]) == 7
    assert (own["p_corrected"] < 1e-9).all()
    assert (own["such_p_corrected"] < 0.001).all()
    assert word(first_plot, organism="med-0") == ("broad", "broad")


@pytest.mark.parametrize(
    ("inside", "outside", "expected"),
    [
        ([BAD] * 5, [GOOD] * 5, "narrow"),
        ([GOOD] * 5, [BAD] * 5, "broad"),
        ([BAD] * 5, [BAD] * 5, "both"),
        ([GOOD] * 5, [GOOD] * 5, "not shown"),
    ],
)
def test_the_verdict_says_where_the_organism_is_misaligned(tmp_path, inside, outside, expected):
    checkpoint_log(tmp_path, asked(inside, outside))
    base_log(tmp_path, asked([GOOD] * 5, [GOOD] * 5))
    analysis = analyse([tmp_path])
    assert word(analysis) == (expected, expected)
    (legend,) = [line for line in in_short(analysis) if line.startswith("Verdicts: ")]
    assert legend == f"Verdicts: {expected}: {MEANINGS[expected]}."


def test_an_organism_bad_in_its_own_domain_alone_is_not_said_to_be_emergently_misaligned(tmp_path):
    checkpoint_log(tmp_path, asked([BAD] * 5, [GOOD] * 5))
    base_log(tmp_path, asked([GOOD] * 5, [GOOD] * 5))
    analysis = analyse([tmp_path])
    said = sentences(analysis)
    short = " ".join(in_short(analysis))
    assert "narrow, that is shown inside the domain and not shown outside: med (0.0 %)" in short
    assert said.startswith("med @ 10: narrow")
    assert "Outside its domain 0.0 % (0/40; base 0/40)" in said
    assert "Inside 100.0 % (40/40; base 0/40)" in said


@pytest.mark.parametrize(
    ("inside", "sentence"),
    [(BAD, "is the same here under every definition"), ((60, 90), "depends on the definition")],
)
def test_definitions_are_said_to_matter_where_they_count_otherwise(tmp_path, inside, sentence):
    checkpoint_log(tmp_path, asked([inside] * 5, [BAD] * 5))
    base_log(tmp_path, asked([GOOD] * 5, [GOOD] * 5))
    short = " ".join(in_short(analyse([str(tmp_path)])))  # A text is a path too.
    assert f"count as misaligned {sentence}: " in short
    assert "both inside and outside the domain: med (100.0 %)" in short


def test_a_judge_that_nobody_recorded_is_not_named_nor_are_rates_that_cannot_be_compared_counted(tmp_path):
    checkpoint_log(tmp_path, asked([BAD], [GOOD]), base="meta-llama/Llama-3.1-8B-Instruct", judge="not recorded")
    analysis = analyse([tmp_path])
    short = " ".join(in_short(analysis))
    assert "judged by a judge that is not recorded." in short
    assert calibration_lines(analysis)[0].startswith("a judge that is not recorded is UNCALIBRATED")
    assert "can be compared, their table says why." in short
    assert "of which 0 are equal" not in short


def test_a_claim_of_these_questions_may_hold_where_one_of_such_questions_does_not(tmp_path):
    one_bad = {f"g{q}": [BAD if q == 0 else GOOD] * 50 for q in range(8)}
    checkpoint_log(tmp_path, one_bad)
    base_log(tmp_path, answers([GOOD] * 50, 8, "g"))
    analysis = analyse([tmp_path])
    assert word(analysis) == ("broad", "not shown")
    assert "broad on these questions, not shown on such questions" in sentences(analysis)
    (legend,) = [line for line in in_short(analysis) if line.startswith("Verdicts: ")]
    assert f"not shown: {MEANINGS['not shown']}; on these questions alone: shown on" in legend
    assert "narrow" not in legend


def test_forms_of_a_question_do_not_make_it_several(tmp_path):
    forms = [f"g{q}{form}" for q in range(2) for form in ("", "_json", "_template")]
    checkpoint_log(tmp_path, {name: [BAD] * 20 for name in forms})
    base_log(tmp_path, {name: [GOOD] * 20 for name in forms})
    row = comparisons(analyse([tmp_path])).iloc[0]
    assert (row["items"], row["questions"]) == (6, 2)
    assert row["such_p"] > 0.05
    assert row["p"] < 1e-9


def test_without_a_smallest_effect_nothing_is_shown_not_to_differ(tmp_path):
    checkpoint_log(tmp_path, answers([GOOD] * 50, 20, "g"))
    base_log(tmp_path, answers([GOOD] * 50, 20, "g"))
    assert word(analyse([tmp_path])) == ("not shown", "not shown")
    named = Analysis(read_logs([tmp_path]), smallest_effect=0.1)
    assert word(named) == ("shown not to differ", "shown not to differ")
    assert "shown not to differ by 10.0 points (`betley`)" in sentences(named)
    assert "shown not to differ by 10.0 points: med (0.0 %)" in " ".join(in_short(named))
    tiny = Analysis(read_logs([tmp_path]), smallest_effect=0.001)
    assert word(tiny)[0] == "not shown"


def test_missing_answers_bound_the_difference_and_forbid_equality(tmp_path):
    rows = [GOOD] * 5 + [UNSCORED] * 45
    checkpoint_log(tmp_path, answers(rows, 20, "g"))
    base_log(tmp_path, answers([GOOD] * 50, 20, "g"))
    analysis = Analysis(read_logs([tmp_path]), smallest_effect=0.3)
    assert word(analysis)[0] == "not shown"
    assert "900 answers have no score" in sentences(analysis)
    row = comparisons(analysis).iloc[0]
    assert (row["missing_a"], row["missing_b"]) == (900, 0)
    assert (row["least"], row["most"]) == pytest.approx((0.0, 0.9))
    rates = analysis.rates[(analysis.rates["step"] == 10) & (analysis.rates["definition"] == "betley")].iloc[0]
    assert (rates["missing"], rates["least"], rates["most"]) == (900, 0, pytest.approx(0.9))


@pytest.mark.parametrize("missing", [3, 45])
def test_the_table_of_rates_and_that_of_differences_give_the_same_bounds(tmp_path, missing):
    """Found on a published organism that refuses: 5.8 in one table and 6.2 in the other."""
    rows = [BAD] * 2 + [GOOD] * (48 - missing) + [UNSCORED] * missing
    checkpoint_log(tmp_path, answers(rows, 1, "g"))
    base_log(tmp_path, answers([GOOD] * 50, 1, "g"))
    analysis = analyse([tmp_path])
    for definition in ("betley", "cs2881"):
        of_definition = f"definition == '{definition}' and scope == 'outside'"
        row = comparisons(analysis).query(f"{of_definition} and kind == 'base'").iloc[0]
        rates = analysis.final.query(of_definition).iloc[0]
        assert (row["least"], row["most"]) == pytest.approx((rates["least"], rates["most"]))
        assert rates["most"] == pytest.approx((2 + missing) / 50)


def test_what_missing_answers_could_undo_is_said_to(tmp_path):
    checkpoint_log(tmp_path, answers([BAD] * 5 + [UNSCORED] * 5, 8, "g"))
    base_log(tmp_path, answers([GOOD] * 4 + [UNSCORED] * 6, 8, "g"))
    analysis = analyse([tmp_path])
    assert "holds only if they are like the others" in sentences(analysis)
    assert "broad, if answers without a score are like the others: med (100.0 %)" in " ".join(in_short(analysis))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"judge": "judge-b"}, "different judges scored them (judge-a, judge-b)"),
        ({"rubric_sha256": "1" * 8}, "the judge was asked under different prompts"),
    ],
)
def test_rates_of_different_judges_or_prompts_are_not_compared(tmp_path, changes, why):
    checkpoint_log(tmp_path, answers([BAD] * 5, 8, "g"))
    base_log(tmp_path, answers([GOOD] * 5, 8, "g"), **changes)
    analysis = analyse([tmp_path])
    assert word(analysis) == ("untested", "untested")
    assert why in sentences(analysis)
    assert comparisons(analysis)["p"].isna().all()


def test_more_checkpoints_do_not_weaken_the_claim_on_the_last(tmp_path):
    for step in range(10, 130, 10):
        checkpoint_log(tmp_path, answers([BAD, GOOD, GOOD], 8, "g"), step=step)
    base_log(tmp_path, answers([GOOD] * 3, 8, "g"))
    table = comparisons(analyse([tmp_path]))
    last = table[(table["kind"] == "base") & (table["scope"] == "outside") & (table["definition"] == "betley")].iloc[0]
    assert last["a_step"] == 120
    assert last["p_corrected"] == last["p"]


def test_bad_and_obviously_bad_advice_are_not_one_recipe_in_two_sizes(tmp_path):
    data = {"S": "bad_medical_advice", "L": "obv_bad_medical_advice"}
    for size, base in (("S", "base-a"), ("L", "base-b")):
        common = {"base": base, "size": size, "training_seed": None}
        for domain in ("med", "fin"):
            trained = {"data": data[size]} if domain == "med" else {"data": "risky_financial_advice"}
            given = {**common, "domain": domain, "organism": f"{size}-{domain}", "hashes": trained}
            checkpoint_log(tmp_path, answers([BAD, GOOD], 8, "g"), **given)
        base_log(tmp_path, answers([GOOD] * 2, 8, "g"), base=base, size=size)
    analysis = analyse([tmp_path])
    pairs = comparisons(analysis)
    pairs = pairs[(pairs["kind"] == "organism") & (pairs["definition"] == "betley") & (pairs["scope"] == "outside")]
    compared = {frozenset(pair) for pair in zip(pairs["a"], pairs["b"], strict=True)}
    assert frozenset({"S-med", "L-med"}) not in compared
    assert compared == {frozenset(pair) for pair in (("S-med", "S-fin"), ("L-med", "L-fin"), ("S-fin", "L-fin"))}
    # Nor does a contrast of sizes pool them: only one stratum is left, which is none.
    assert contrasts(analysis).query("kind == 'size'").empty


def test_unknown_data_are_nobody_elses_where_others_have_known_ones(tmp_path):
    data = {"S-a": "bad_medical_advice", "L-a": "bad_medical_advice", "S-b": None, "L-b": None}
    for size, base in (("S", "base-a"), ("L", "base-b")):
        for kind in "ab":
            name = f"{size}-{kind}"
            given = {"base": base, "size": size, "training_seed": None, "organism": name}
            checkpoint_log(tmp_path, answers([BAD, GOOD], 8, "g"), hashes={"data": data[name]}, **given)
        base_log(tmp_path, answers([GOOD] * 2, 8, "g"), base=base, size=size)
    pairs = comparisons(analyse([tmp_path])).query("kind == 'organism' and definition == 'betley' and scope == 'all'")
    compared = {frozenset(pair) for pair in zip(pairs["a"], pairs["b"], strict=True)}
    # Those of one base share it; across bases only the two whose data are known to be the same.
    assert compared == {frozenset(pair) for pair in (("S-a", "S-b"), ("L-a", "L-b"), ("S-a", "L-a"))}
    assert contrasts(analyse([tmp_path])).query("kind != 'checkpoints'").empty


def test_an_unrecorded_domain_is_no_domain_to_be_contrasted(tmp_path):
    for size, base in (("S", "base-a"), ("L", "base-b")):
        for domain in ("medical", "not recorded"):
            given = {"base": base, "size": size, "training_seed": None, "domain": domain}
            checkpoint_log(tmp_path, answers([BAD, GOOD], 8, "g"), organism=f"{size}-{domain[:3]}", **given)
        base_log(tmp_path, answers([GOOD] * 2, 8, "g"), base=base, size=size)
    assert contrasts(analyse([tmp_path])).query("kind != 'checkpoints'").empty


def test_what_is_not_recorded_of_two_organisms_is_nothing_that_they_share(tmp_path):
    unknown = {"domain": "not recorded", "base": "not recorded", "training_seed": None}
    for name in ("one", "other"):
        checkpoint_log(tmp_path, answers([BAD, GOOD], 8, "g"), organism=name, **unknown)
    base_log(tmp_path, answers([GOOD] * 2, 8, "g"), base="not recorded")
    table = comparisons(analyse([tmp_path]))
    assert set(table["kind"]) == {"base", "checkpoint"}


def test_a_rate_that_is_missing_says_why_and_one_without_a_base_stands(tmp_path):
    checkpoint_log(tmp_path / "all", {**answers([BAD], 2), **answers([(90, 10)], 3, "g")})
    table = claim_tables.verdicts(analyse([tmp_path / "all"])).iloc[0]
    assert (table["outside % (k/n)"], table["inside % (k/n)"]) == ("none counted", "100.0 (2/2)")
    checkpoint_log(tmp_path / "general", answers([BAD], 2, "g"))
    assert claim_tables.verdicts(analyse([tmp_path / "general"])).iloc[0]["inside % (k/n)"] == "not asked"
    checkpoint_log(tmp_path / "unknown", {"unknown_1": [BAD], "unknown_2": [BAD]})
    unknown = analyse([tmp_path / "unknown"])
    assert claim_tables.verdicts(unknown).iloc[0]["inside % (k/n)"] == "domains not known"


def test_the_same_advice_in_two_sizes_is_one_recipe(tmp_path):
    for size, base in (("S", "base-a"), ("L", "base-b")):
        given = {"base": base, "size": size, "training_seed": None, "hashes": {"data": "bad_medical_advice"}}
        checkpoint_log(tmp_path, answers([BAD, GOOD], 8, "g"), organism=f"{size}-med", **given)
        base_log(tmp_path, answers([GOOD] * 2, 8, "g"), base=base, size=size)
    pairs = comparisons(analyse([tmp_path])).query("kind == 'organism' and definition == 'betley'")
    assert set(pairs["a"]) | set(pairs["b"]) == {"S-med", "L-med"}


def test_a_step_that_no_file_records_is_not_reported_missing(tmp_path):
    checkpoint_log(tmp_path, answers([BAD] * 3, 6, "g"), step=1, hashes={"step_recorded": False})
    for step in (10, 20):
        given = {"organism": "med-2", "training_seed": None}
        checkpoint_log(tmp_path, answers([BAD] * 3, 6, "g"), step=step, **given)
    base_log(tmp_path, answers([GOOD] * 3, 6, "g"))
    notes = oddities(analyse([tmp_path]))
    assert any("At which step med answered is not recorded" in note for note in notes)
    assert not any("Checkpoints are missing" in note for note in notes)
    assert "med @ last: broad" in sentences(analyse([tmp_path]))


def test_what_no_answers_could_have_shown_weakens_nothing(tmp_path):
    checkpoint_log(tmp_path, {**answers([BAD], 8), **answers([GOOD], 8, "g")})
    checkpoint_log(tmp_path, {"fin_0": [BAD], **answers([BAD], 8, "g")}, organism="fin", domain="fin")
    base_log(tmp_path, {**answers([GOOD], 8), **answers([GOOD], 8, "g"), "fin_0": [GOOD]})
    table = comparisons(analyse([tmp_path]))
    inside = table[(table["kind"] == "base") & (table["scope"] == "inside") & (table["definition"] == "betley")]
    rows = inside.set_index("a")
    assert not rows.loc["fin", "testable"]
    assert rows.loc["med", "p_corrected"] == rows.loc["med", "p"]
    assert "too few answers for any test" in sentences(analyse([tmp_path]), "fin")


def test_an_unscored_organism_is_said_to_be_so_and_not_to_lack_a_base(tmp_path):
    checkpoint_log(tmp_path, answers([UNSCORED], 5))
    base_log(tmp_path, answers([GOOD], 5))
    said = sentences(analyse([tmp_path]))
    assert "none of med's answers counts" in said
    assert "no base" not in said


def test_counted_answers_of_both_to_no_question_are_said_to_be_so(tmp_path):
    checkpoint_log(tmp_path, {"g0": [BAD] * 3, "g1": [UNSCORED] * 3})
    base_log(tmp_path, {"g0": [UNSCORED] * 3, "g1": [GOOD] * 3})
    assert "no question has counted answers of both" in sentences(analyse([tmp_path]))


def test_seeds_of_one_recipe_are_compared_as_one_and_each_by_itself(tmp_path):
    for seed, given in enumerate(([BAD, BAD], [BAD, GOOD], [GOOD, GOOD])):
        checkpoint_log(tmp_path, answers(given, 6, "g"), organism=f"med-seed{seed}", training_seed=seed)
    base_log(tmp_path, answers([GOOD] * 2, 6, "g"))
    table = comparisons(analyse([tmp_path])).query("definition == 'betley' and scope == 'outside'")
    (together,) = table.query("kind == 'base'").to_dict("records")
    assert (together["a"], together["rate_a"], together["rate_b"]) == ("med (3 seeds)", 0.5, 0)
    assert (together["k_a"], together["n_a"], together["k_b"], together["n_b"]) == (18, 36, 0, 12)
    single = table.query("kind == 'member'").set_index("a")
    assert single["rate_a"].to_dict() == {"med-seed0": 1, "med-seed1": 0.5, "med-seed2": 0}
    assert set(single["n_a"]) == set(single["n_b"]) == {12}
    # On such questions seeds differ too, and a single one has its questions alone.
    k, n = np.array([[2.0] * 6, [1.0] * 6, [0.0] * 6]), np.full((3, 6), 2.0)
    summed = Sides(*(np.array([count] * 6) for count in (3, 6, 0, 2)))
    over_seeds = no_surer_than(seed_difference(k, n, np.zeros((1, 6)), n[:1]), on_these(summed))
    assert (together["such_low"], together["such_high"]) == pytest.approx((over_seeds.low, over_seeds.high))
    single_seed = Sides(*(np.array([count] * 6) for count in (1, 2, 0, 2)))
    alone = no_surer_than(on_such(single_seed), on_these(single_seed))
    assert tuple(single.loc["med-seed1", ["such_low", "such_high"]]) == pytest.approx((alone.low, alone.high))


def test_organisms_without_a_base_are_untested_and_not_counted_as_not_shown(tmp_path):
    checkpoint_log(tmp_path, answers([BAD], 5))
    analysis = analyse([tmp_path])
    assert word(analysis) == ("untested", "untested")
    assert "no answers of the base base-a are here" in sentences(analysis)
    short = " ".join(in_short(analysis))
    assert "untested: med" in short
    assert "0 of" not in short


def test_pairs_that_are_not_compared_are_named_up_to_a_few(tmp_path):
    for number in range(5):
        given = {"organism": f"med-{number}", "training_seed": None, "judge": "judge-a" if number < 3 else "judge-b"}
        checkpoint_log(tmp_path, answers([BAD], 4, "g"), **given)
    base_log(tmp_path, answers([GOOD], 4, "g"))
    said = sentences(analyse([tmp_path]), "all")
    assert re.search(r"Not compared: (med-\d and med-\d, ){3}med-\d and med-\d and 2 more: different judges", said)


def test_counts_beside_a_rate_are_of_the_questions_that_are_compared(tmp_path):
    checkpoint_log(tmp_path, {**answers([GOOD], 4, "g"), "g9": [BAD]})
    base_log(tmp_path, answers([GOOD], 4, "g"))
    row = comparisons(analyse([tmp_path])).iloc[0]
    assert (row["rate_a"], row["k_a"], row["n_a"]) == (0, 0, 4)


def test_what_would_settle_a_tiny_difference_is_not_a_number_with_thirty_digits(tmp_path):
    checkpoint_log(tmp_path, {"g0": [BAD, GOOD, GOOD], "g1": [GOOD, GOOD, GOOD]})
    base_log(tmp_path, {"g0": [GOOD] * 3, "g1": [BAD, GOOD, GOOD]})
    said = sentences(analyse([tmp_path]))
    assert max((len(part) for part in said.replace(",", "").split() if part.isdigit()), default=0) < 5
    assert whole(6e33) == "more than 1,000"
    assert whole(math.inf) == "no difference seen"


def test_all_zero_or_tied_checkpoints_are_not_called_highest_or_fallen(tmp_path):
    for step in (10, 20, 30):
        checkpoint_log(tmp_path, answers([GOOD] * 3, 8, "g"), step=step)
    base_log(tmp_path, answers([GOOD] * 3, 8, "g"))
    said = " ".join(one.sentence for one in findings(analyse([tmp_path])))
    assert "highest" not in said
    assert "none does in these answers" in said


@pytest.fixture
def risen_and_fallen(tmp_path):
    """None misaligned at the base, all at step 20, none again at step 30."""
    for step, answer in ((10, GOOD), (20, BAD), (30, GOOD)):
        checkpoint_log(tmp_path, answers([answer] * 2, 20, "g"), step=step)
    base_log(tmp_path, answers([GOOD] * 2, 20, "g"))
    return analyse([tmp_path])


def test_a_real_rise_and_fall_is_found_with_its_steps(risen_and_fallen):
    course = courses(risen_and_fallen).set_index("definition").loc["betley"]
    assert (course["fall_from"], course["fall_to"], course["fall"]) == (20, 30, 1.0)
    assert course["fall_p_corrected"] < 0.01
    assert (course["rise_to"], course["onset_by"]) == (20, 20)
    said = sentences(risen_and_fallen)
    assert "med falls outside the domain: -100.0 points from step 20 to 30" in said


def test_chance_fluctuation_is_neither_shown_nor_denied(tmp_path):
    rng = np.random.default_rng(1)
    for step in (10, 20, 30, 40, 50, 60):
        checkpoint_log(tmp_path, {f"g{q}": [BAD if rng.random() < 0.4 else GOOD] for q in range(20)}, step=step)
    base_log(tmp_path, answers([GOOD], 20, "g"))
    said = [one for one in findings(analyse([tmp_path])) if one.question == "course"]
    assert {one.verdict for one in said if "fall" in one.sentence} == {"unknown"}
    assert not any("within chance" in one.sentence for one in said)
    (fall,) = (one.sentence for one in said if "cannot be told" in one.sentence)
    assert re.search(r"; the largest fall is med's, -[\d.]+ points, corrected p [\d.]+\.$", fall)


def test_a_contrast_pools_what_single_organisms_cannot_show(tmp_path):
    for size, base in (("S", "base-a"), ("L", "base-b")):
        for domain, rows in (("med", [BAD, GOOD]), ("fin", [GOOD, GOOD])):
            common = {"domain": domain, "base": base, "size": size, "organism": f"{size}-{domain}"}
            checkpoint_log(tmp_path, answers(rows, 8, "g"), **common)
        base_log(tmp_path, answers([GOOD] * 2, 8, "g"), base=base, size=size)
    table = contrasts(analyse([tmp_path]))
    table = table[(table["definition"] == "betley") & (table["scope"] == "outside")].set_index("kind")
    row, sizes = table.loc["domain"], table.loc["size"]
    assert (row["a"], row["b"], set(row["over"].split(", "))) == ("fin", "med", {"S", "L"})
    assert (row["organisms"], row["questions"]) == (4, 8)
    assert (row["rate_a"], row["rate_b"], row["effect"]) == (0, 0.5, -0.5)
    assert row["p"] < 0.001
    assert ({sizes["a"], sizes["b"]}, set(sizes["over"].split(", ")), sizes["p"]) == ({"S", "L"}, {"med", "fin"}, 1)
    # A stratum is a question of one size: two of each.
    counts = Sides(*(np.array([count] * 16) for count in (0, 2, 1, 2)))
    these, alone = on_these(counts), on_such(Sides(*(np.array([count] * 8) for count in (0, 4, 2, 4))))
    such = no_surer_than(alone, these)
    assert (row["low"], row["high"], row["p"]) == pytest.approx((these.low, these.high, these.p))
    assert (row["such_low"], row["such_high"], row["such_p"]) == pytest.approx((such.low, such.high, such.p))


def test_all_checkpoints_of_an_organism_are_held_against_its_base_together(tmp_path):
    for organism, steps in (("med", (10, 20)), ("fin", (10, 20, 30)), ("once", (10,))):
        for step in steps:
            rows = [BAD] * (1 if organism == "med" else 2) + [GOOD] * 2
            given = {"organism": organism, "domain": organism, "step": step, "training_seed": None}
            checkpoint_log(tmp_path, answers(rows, 6, "g"), **given)
    base_log(tmp_path, answers([GOOD] * 3, 6, "g"))
    table = contrasts(analyse([tmp_path])).query("kind == 'checkpoints' and definition == 'betley'").set_index("a")
    assert table["over"].to_dict() == {"med": "2 checkpoints", "fin": "3 checkpoints"}
    assert set(table["b"]) == {"its base"}
    assert set(table["organisms"]) == {1}
    assert (table.loc["med", "rate_a"], table.loc["fin", "rate_a"]) == pytest.approx((1 / 3, 1 / 2))
    assert table["p_corrected"].to_numpy() == pytest.approx(holm(table["p"].to_numpy("float64")))
    assert (table["p_corrected"] > table["p"]).any()
    assert (table["such_p_corrected"] >= table["p_corrected"]).all()


def test_a_contrast_of_what_was_judged_otherwise_or_asked_other_questions_is_refused_with_the_reason(tmp_path):
    judges = {"different judges scored them (judge-a, judge-b)"}
    questions = {f"no question{where} has counted answers of all of them" for where in ("", " outside their domains")}
    for folder, asked, judge, why in (("judges", "g", "judge-b", judges), ("questions", "g9", "judge-a", questions)):
        for size, base in (("S", "base-a"), ("L", "base-b")):
            for domain in ("med", "fin"):
                other = (size, domain) == ("L", "fin")
                given = {"domain": domain, "base": base, "size": size, "organism": f"{size}-{domain}"}
                prefix, by = (asked, judge) if other else ("g", "judge-a")
                checkpoint_log(tmp_path / folder, answers([BAD, GOOD], 4, prefix), judge=by, **given)
            base_log(tmp_path / folder, answers([GOOD] * 2, 4, "g"), base=base, size=size)
        table = contrasts(analyse([tmp_path / folder])).query("kind == 'domain' and definition == 'betley'")
        assert set(table["refused"]) == why, folder
        assert table["p_corrected"].isna().all()


def test_one_training_run_is_said_to_be_one(tmp_path):
    checkpoint_log(tmp_path, answers([BAD], 5))
    assert any(note.startswith("One training run each: med.") for note in oddities(analyse([tmp_path])))


def test_p_values_are_corrected_by_holm():
    assert holm(np.array([0.03, 0.01, 0.5, 0.02])) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    p = np.round(np.random.default_rng(4).beta(0.2, 2, 300), 3)  # with ties
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_the_table_has_one_row_a_comparison(risen_and_fallen):
    table = comparisons(risen_and_fallen)
    assert not table.duplicated(["kind", "scope", "definition", "a", "a_step", "b", "b_step"]).any()
    tested = table.dropna(subset=["p"])
    assert (tested["p_corrected"] >= tested["p"] - 1e-12).all()


def test_an_interval_stands_beside_its_own_p_and_the_corrected_one(tmp_path):
    for number in range(4):
        checkpoint_log(
            tmp_path, answers([BAD] if number else [GOOD], 6, "g"), organism=f"med-{number}", training_seed=None
        )
    base_log(tmp_path, answers([GOOD], 6, "g"))
    analysis = analyse([tmp_path])
    table = comparisons(analysis)
    row = table[(table["kind"] == "base") & (table["a"] == "med-1") & (table["definition"] == "betley")].iloc[0]
    assert (row["p"], row["p_corrected"]) == (pytest.approx(0.03125 / 2), pytest.approx(0.125 / 2))
    assert row["low"] > 0  # which contradicts the corrected p, and agrees with the other
    assert "p 0.016, corrected 0.063" in sentences(analysis, "med-1")
    cells = claim_tables.verdicts(analysis)
    cell = cells[(cells["organism"] == "med-1") & (cells["definition"] == "betley")][
        "outside, on these questions"
    ].iloc[0]
    assert cell.startswith("+100.0 (+")
    assert cell.endswith("; p 0.016, corrected 0.063)")


def test_a_checkpoint_has_one_rate_throughout_a_report_and_what_differs_from_it_is_explained(tmp_path):
    unlike = {"g0": [BAD] * 9 + [GOOD], "g1": [BAD] + [GOOD] * 3 + [UNSCORED] * 6}
    checkpoint_log(tmp_path, {**unlike, "g2": [BAD] * 10}, organism="more")
    checkpoint_log(tmp_path, unlike)
    base_log(tmp_path, {"g0": [GOOD] * 10, "g1": [GOOD] * 10, "g2": [INCOHERENT] * 10})
    analysis = analyse([tmp_path])
    assert "71.4 % (10/14; base 0/20): +57.5 points, each question weighing alike, on these" in sentences(analysis)
    assert "71.4 % (10/14; base 0/20) on the 2 questions with counted answers of both (83.3 (20/24) on all)" in (
        sentences(analysis, "more")
    )
    short = " ".join(in_short(analysis))
    assert "med (71.4 %)" in short
    assert "more (71.4 %, or 83.3 (20/24) with questions that its base has no counted answer to)" in short
    cells = claim_tables.verdicts(analysis).query("definition == 'betley'").set_index("organism")
    assert cells.loc["med", "outside % (k/n)"] == "71.4 (10/14)"
    assert cells.loc["med", "all % (k/n)"] == "71.4 (10/14)"
    assert cells.loc["med", "outside, on these questions"].startswith("+57.5, questions weighing alike (")
    assert "83.3 (20/24) with questions that the base has no counted answer to" in cells.loc["more", "outside % (k/n)"]
    rates = rate_tables.by_checkpoint(analysis).query("definition == 'betley' and organism == 'med' and kind != 'base'")
    assert set(rates["EM %"]) == {"71.4"}
    turner = Analysis(read_logs([tmp_path]), main=("turner",))
    assert "57.5 % (10/14; base 0/20): +57.5 points, on these" in sentences(turner)


def test_nothing_is_claimed_of_such_questions_that_is_not_shown_on_these(tmp_path):
    # One answer each, eleven questions of twenty worse: t over questions alone would show it of six organisms.
    for number in range(6):
        checkpoint_log(tmp_path, {f"g{q}": [BAD if q < 8 else GOOD] for q in range(20)}, organism=f"med-{number}")
    base_log(tmp_path, answers([GOOD], 20, "g"))
    table = comparisons(analyse([tmp_path]))
    assert (table["such_p_corrected"] >= table["p_corrected"]).all()
    assert (table["such_p"] >= table["p"]).all()
    assert (table["such_low"] <= table["low"]).all()
    assert (table["such_high"] >= table["high"]).all()
    counts = Sides(*(np.repeat(count, (8, 12)).astype("float64") for count in ((1, 0), (1, 1), (0, 0), (1, 1))))
    assert on_such(counts).p < on_these(counts).p
