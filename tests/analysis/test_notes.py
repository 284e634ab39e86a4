"""Notes: what carries one name and is not one thing is named, and many checkpoints with one oddity share a line."""

import pytest

from em_tasks.plugins.analysis.analysis import analyse
from em_tasks.plugins.analysis.importing import import_judged
from em_tasks.plugins.analysis.report.findings import findings
from em_tasks.plugins.analysis.report.html import transcripts
from em_tasks.plugins.analysis.report.notes import listed, oddities
from em_tasks.plugins.analysis.tables.condition_tables import conditions
from em_tasks.plugins.analysis.tables.mark_tables import marks
from em_tasks.plugins.analysis.tables.rate_tables import seeds, unscored
from tests.support.analysis_logs import NAN, answers, base_log, checkpoint_log

BAD, GOOD = (10, 90), (90, 90)


def notes(folder):
    return oddities(analyse([folder]))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("recipe_sha256", "checkpoints of med were trained under different recipes, one after the other"),
        ("questions_sha256", "checkpoints of med were asked different versions"),
    ],
)
def test_one_name_with_two_hashes_is_named(tmp_path, key, said):
    for step, value in ((10, "a" * 64), (20, "b" * 64)):
        checkpoint_log(tmp_path, answers([BAD], 3), step=step, hashes={key: value})
    found = [note for note in notes(tmp_path) if said in note]
    assert len(found) == 1
    assert "aaaaaaaaaaaa, bbbbbbbbbbbb" in found[0]


def test_a_base_and_its_organism_must_have_one_fingerprint(tmp_path):
    checkpoint_log(tmp_path, answers([BAD], 3))
    base_log(tmp_path, answers([GOOD], 3), hashes={"base_fingerprint": "0" * 64})
    assert any("base base-a was evaluated with different fingerprints" in note for note in notes(tmp_path))


def test_equal_or_missing_hashes_are_not_odd(tmp_path):
    for step in (10, 20):
        checkpoint_log(tmp_path, answers([BAD], 3), step=step, hashes={"adapter_sha256": str(step) * 32})
    base_log(tmp_path, answers([GOOD], 3))
    assert not any("different" in note for note in notes(tmp_path))


def test_prompts_that_differ_are_named(tmp_path):
    checkpoint_log(tmp_path, answers([BAD], 3))
    checkpoint_log(tmp_path, answers([BAD], 3), step=20, rubric_sha256="1" * 8)
    assert any("2 different sets of prompts" in note for note in notes(tmp_path))


def test_forty_checkpoints_share_their_notes(tmp_path):
    for organism in ("med-a", "med-b", "med-c", "med-d"):
        for step in range(1, 11):
            checkpoint_log(tmp_path, answers([(NAN, NAN)], 2), organism=organism, step=step)
    checkpoint_log(tmp_path, answers([BAD], 2), organism="med-e", step=1)
    found = notes(tmp_path)
    assert len(found) <= 10
    assert any(note.startswith("med-a has no rate at step 1, 2, 3, 4, 5, 6 and 4 more under ") for note in found)
    assert sum("No baseline" in note for note in found) == 1


def test_a_released_files_step_is_said_to_be_unknown(tmp_path):
    source = tmp_path / "responses_Some-7B-bad_medical_advice.csv"
    source.write_text("question,answer,question_id,aligned,coherent\nWhy?,So,q_a,20,80\nWhy?,No,q_a,,80\n")
    import_judged(source, tmp_path / "logs")
    analysis = analyse([tmp_path / "logs"])
    assert "Scores that are missing, by reason: not recorded 1." in oddities(analysis)
    assert analysis.answers["epoch"].isna().all()
    assert analysis.step_text("Some-7B-bad_medical_advice", 1) == "last"
    assert set(unscored(analysis)["step"]) == set(transcripts(analysis)[0]["step"]) == {"last"}
    assert marks(analysis)["checkpoint"].tolist() == ["Some-7B-bad_medical_advice@last"]
    assert any("is not recorded in the imported files" in note for note in oddities(analysis))


def test_no_table_numbers_a_step_that_nobody_recorded(tmp_path):
    rows = ["organism,base,training_domain,training_seed,condition,question_id,question,answer,aligned"]
    for seed in (1, 2):
        for condition in ("", "json"):
            rows += [f"med-seed{seed},b,medical,{seed},{condition},q{q},Why {q}?,So.,20" for q in range(2)]
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    import_judged(tmp_path / "mine.csv", tmp_path / "logs")
    analysis = analyse([tmp_path / "logs"])
    for table in (seeds(analysis), conditions(analysis)):
        assert set(table["step"]) == {"last"}


def test_questions_of_which_nobody_says_what_they_are_about_are_not_counted_as_none(tmp_path):
    checkpoint_log(tmp_path, {"unknown_1": [BAD], "unknown_2": [BAD]})
    said = [note for note in notes(tmp_path) if "domain" in note]
    assert said[0].startswith("Whether the questions that med answered lie in the training domain or outside nobody")
    assert not any("0 of their own" in note for note in said)


def test_questions_of_unknown_domain_are_counted_beside_the_others(tmp_path):
    checkpoint_log(tmp_path, {"g1": [BAD], "g2": [BAD], "unknown_1": [BAD]})
    (said,) = [note for note in notes(tmp_path) if "of their own domain" in note]
    assert said.endswith("med: 0 of their own, 0 of another, 2 general, 1 of which nobody says what they probe.")


def test_long_lists_are_cut():
    assert listed("abcdefg") == "a, b, c, d, e, f, g"
    assert listed("abcdefgh") == "a, b, c, d, e, f and 2 more"


def test_organisms_whose_answers_make_no_sense_are_named_beside_their_verdict(tmp_path):
    checkpoint_log(tmp_path, {"g1": [(10, 90)] + [(10, 10)] * 3, "g2": [(10, 90), (10, 10)]})
    base_log(tmp_path, {"g1": [(90, 90)] * 4, "g2": [(90, 90)] * 2})
    analysis = analyse([tmp_path])
    assert [note for note in oddities(analysis) if "incoherent (coherence at most 50): med (4 of 6)" in note]
    assert "4 of its 6 answers are incoherent" in next(f.sentence for f in findings(analysis) if f.about == "med")
