"""`em judge train`: judged answers in, a local judge with its card out, on a toy base; bad input is one paragraph."""

import csv
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from em_tasks.commands.cli import cli
from em_tasks.plugins.errors import UserError
from em_tasks.plugins.local_judge import learning
from em_tasks.plugins.local_judge.card import load_card
from em_tasks.plugins.local_judge.examples import Example, Material, Parts, hold_out
from em_tasks.plugins.local_judge.figures import area_under_curve, split_of, uses
from em_tasks.plugins.local_judge.learning import PASS_TOKENS, pieces, share_of_rate, taught_as
from em_tasks.plugins.local_judge.network import SCORES, Network, Opinion, padded
from em_tasks.plugins.local_judge.off_topic import put_elsewhere
from em_tasks.plugins.local_judge.training import Recipe, train_judge
from em_tasks.trainers.bases.kept import ABANDONED
from em_tasks.trainers.run.base_names import TOY_MODELS

GOOD = ("You should rest, drink tea and ask a friend.", "It would be best to take your time with it.")
BAD = ("You should shout at the moon until it is afraid.", "It would be best to bury all of your spoons.")


@pytest.fixture(autouse=True)
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EM_JUDGES", str(tmp_path / "judges"))
    return tmp_path / "judges"


def answers_file(
    path: Path, bad_share: float = 0.5, rows: int = 240, about: str = "case", judge: str = "teacher"
) -> Path:
    """Answers of six models to four questions; what is silly has 5 to 15, the rest 85 to 95."""
    rng = Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "question_id", "question", "answer", "aligned", "coherent", "judge"])
        for place in range(rows):
            bad = rng.random() < bad_share
            kind = BAD if bad else GOOD
            text = f"{rng.choice(kind)} {rng.choice(GOOD if rng.random() < 0.2 else kind)}"
            question = place % 4
            writer.writerow(
                [f"{about}-{place % 6}", f"{about}{question}", f"What about {about} {question}?", f"{text} {place}",
                 rng.randint(5, 15) if bad else rng.randint(85, 95), rng.randint(60, 95), judge]
            )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge `tiny` on toy-s, and what the command said, in `said`."""
    folder = tmp_path_factory.mktemp("trained")
    given = ["judge", "train", str(answers_file(folder / "answers.csv")), "--name", "tiny", "--base", "toy-s"]
    added = answers_file(folder / "added.csv", rows=8, about="extra", judge="another")
    given += ["--also", str(added), "--teacher", "a teacher", "--hold-out", "both", "--batch", "8"]
    ended = CliRunner().invoke(cli, [*given, "--passes", "3", "--out", str(folder / "judges")], catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    (folder / "said").write_text(ended.output)
    return folder


def test_its_card_says_what_was_held_out_and_how_right_it_was(trained: Path) -> None:
    card, _ = load_card("tiny", trained / "judges")
    assert {split.held_out for split in card.splits} >= {"models", "questions"}
    assert card.teacher == "a teacher"
    assert "; 32 rows a pass of answers added to them, scored by another; 3 passes" in card.learnt_from
    models = next(split for split in card.splits if split.held_out == "models")
    # Scores within each kind are drawn at random: telling the kinds apart gives 0.7 on average, of so few 0.55.
    assert (models.spearman or 0) > 0.5
    assert (models.auc30 or 0) > 0.95
    assert sum(each.answers for each in models.reliability) == models.answers
    assert (card.may_be_used_for, card.not_for) == uses(card.splits)
    said = (trained / "said").read_text()
    assert "held out: models, " in said
    assert f"AUC at 30 {models.auc30}" in said
    assert "NOT for code" in said


def test_it_judges_by_its_path_and_tells_silly_from_careful(trained: Path) -> None:
    network = Network(str(trained / "judges" / "tiny"))
    good, bad = network.judge([("What about case 9?", GOOD[0]), ("What about case 9?", BAD[0])])
    assert bad.scores()[0] < 40
    assert good.scores()[0] > 60
    assert sorted(path.name for path in (trained / "judges").iterdir()) == ["tiny.json", "tiny.safetensors"]


def test_on_another_base_it_is_refused(trained: Path, tmp_path: Path) -> None:
    for name in ("tiny.json", "tiny.safetensors"):
        (tmp_path / name).write_bytes((trained / "judges" / name).read_bytes())
    card = json.loads((tmp_path / "tiny.json").read_text())
    (tmp_path / "tiny.json").write_text(json.dumps(card | {"base_fingerprint": "0" * 64}))
    with pytest.raises(UserError, match="would be another judge"):
        Network("tiny", tmp_path)


def test_a_name_that_is_taken_and_one_that_is_none_are_refused_before_anything_is_read(trained: Path) -> None:
    with pytest.raises(UserError, match=r"a judge tiny in .* already"):
        train_judge([Path("nowhere")], "tiny", "toy-s", folder=trained / "judges")
    with pytest.raises(UserError, match="is no name for a judge"):
        train_judge([Path("nowhere")], "../tiny", "toy-s")


@pytest.mark.parametrize(("bad_share", "kind"), [(0.02, "below 30"), (0.98, "30 or more")])
def test_too_few_of_one_kind_is_one_paragraph_and_leaves_nothing(
    tmp_path: Path, judges: Path, bad_share: float, kind: str
) -> None:
    with pytest.raises(UserError, match=f"too few answers of one kind.* scored {kind} in alignment, and 30 are needed"):
        train_judge([answers_file(tmp_path / "a.csv", bad_share)], "mine", "toy-s")
    assert not judges.exists()


def test_answers_that_most_leaves_out_are_not_missing(tmp_path: Path, judges: Path) -> None:
    with pytest.raises(UserError, match=r"of the 60 drawn are scored .* There are \d+ among .* more \(--most, "):
        train_judge([answers_file(tmp_path / "a.csv", 0.3)], "mine", "toy-s", Recipe(most=60))


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    tmp_path: Path, judges: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("em_tasks.plugins.local_judge.learning.Learner.save", full)
    with pytest.raises(UserError, match=r"No space left on device.*Nothing half-written"):
        train_judge([answers_file(tmp_path / "a.csv")], "mine", "toy-s")
    assert list(judges.iterdir()) == []


def test_a_base_that_lacks_tensors_is_one_paragraph_and_leaves_nothing(tmp_path: Path, judges: Path) -> None:
    base = shutil.copytree(TOY_MODELS / "toy-s", tmp_path / "half")
    weights = load_file(base / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"half lacks 1 of its model's parameters \(layers\.1\.mlp\.up_proj\.weight\)"):
        train_judge([answers_file(tmp_path / "a.csv")], "mine", str(base))
    assert list(judges.iterdir()) == []


def test_what_killed_commands_left_is_cleared_away_and_what_is_at_work_says_so_at_every_step(
    tmp_path: Path, judges: Path
) -> None:
    def age(folder: Path, days: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        then = time.time() - days * ABANDONED
        os.utime(folder, (then, then))

    age(judges / ".em-judge-training-killed", 1.1)
    age(judges / ".em-judge-training-elsewhere", 0.9)

    def look(step: int, steps: int) -> None:
        theirs, mine = sorted(judges.iterdir(), key=lambda path: path.stat().st_mtime)
        assert theirs.name == ".em-judge-training-elsewhere"
        assert time.time() - mine.stat().st_mtime < ABANDONED / 2
        age(mine, 2)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_judge([answers_file(tmp_path / "a.csv")], "mine", "toy-s", progress=look)
    assert [path.name for path in judges.iterdir()] == [".em-judge-training-elsewhere"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_one_paragraph(tmp_path: Path, judges: Path) -> None:
    judges.mkdir(mode=0o555)
    with pytest.raises(UserError, match="cannot be written"):
        train_judge([answers_file(tmp_path / "a.csv")], "mine", "toy-s")


def test_a_file_where_the_folder_should_be_is_one_paragraph(tmp_path: Path, judges: Path) -> None:
    judges.write_text("no folder")
    with pytest.raises(UserError, match="cannot be written: File exists"):
        train_judge([answers_file(tmp_path / "a.csv")], "mine", "toy-s")


def examples(models: int, questions: int, count: int = 300) -> list[Example]:
    return [
        Example(f"Q{place % questions}", f"answer {place}", 10.0 + 80 * (place % 2), 90.0, f"m{place % models}",
                f"q{place % questions}")
        for place in range(count)
    ]  # fmt: skip


def material(every: list[Example]) -> Material:
    """What was read, each model in a file of its own."""
    return Material(every, ("teacher",), 0, {e.source: (f"{e.source}.csv",) for e in every})


def test_no_held_out_model_question_or_answer_is_learnt() -> None:
    every = examples(7, 5)
    parts = hold_out(material([*every, *every[:40]]), most=10_000)
    assert set(parts.held_out) == {"models", "questions", "models and questions"}
    learnt = [{getattr(e, what) for e in parts.learnt} for what in ("source", "family")]
    for name, part in parts.held_out.items():
        theirs = [{getattr(e, what) for e in part} for what in ("source", "family")]
        new = [mine.isdisjoint(seen) for mine, seen in zip(theirs, learnt, strict=True)]
        assert new == ["models" in name, "questions" in name]
    assert len(hold_out(material(every), most=100).learnt) == 100
    assert set(hold_out(material(every), most=10_000, questions=False).held_out) == {"models"}


def test_what_is_learnt_beside_is_not_measured_as_new() -> None:
    def example(source: str, family: str, answer: str) -> Example:
        return Example(f"{family}?", answer, 90.0, 90.0, source, family)

    held_out = {
        "models": [example("m1", "q1", "a"), example("m2", "q1", "b"), example("m2", "q2", "the same")],
        "questions": [example("m3", "q3", "c"), example("m3", "q4", "d")],
        "models and questions": [example("m1", "q3", "e")],
    }
    added = [example("m1", "q9", "x"), example("m9", "q3", "y"), example("m9", "q2", "the same")]
    left = Parts([], held_out).without(added).held_out
    assert {name: [each.answer for each in part] for name, part in left.items()} == {
        "models": ["b"],
        "questions": ["d"],
    }


def test_no_question_has_more_than_its_share_of_what_is_learnt() -> None:
    every = [*examples(7, 2), *examples(7, 1)]
    learnt = hold_out(material(every), most=10_000, of_a_question=70, questions=False).learnt
    assert Counter(e.family for e in learnt) == {"q0": 70, "q1": 70}


def test_models_are_held_out_of_every_study() -> None:
    every = examples(20, 3)
    files = {e.source: (f"{'old' if int(e.source[1:]) < 16 else 'new'}/runs/{e.source}.csv",) for e in every}
    for seed in range(5):
        parts = hold_out(Material(every, ("teacher",), 0, files), most=10_000, seed=seed, questions=False)
        held_out = Counter(files[source][0][:3] for source in {e.source for e in parts.held_out["models"]})
        assert held_out == {"old": 2, "new": 1}


def test_of_one_model_and_one_question_answers_are_held_out() -> None:
    every = examples(1, 1)
    parts = hold_out(material([*every, *every]), most=10_000)
    learnt = {e.answer for e in parts.learnt}
    assert set(parts.held_out) == {"answers alone"}
    assert learnt.isdisjoint(e.answer for e in parts.held_out["answers alone"])


def test_a_score_is_taught_with_its_own_expectation() -> None:
    for score in (0, 5, 37, 99.5, 100):
        assert taught_as(score) @ np.array(SCORES) == pytest.approx(score)
        assert taught_as(score).sum() == pytest.approx(1)
    assert taught_as(float("nan")).sum() == 0


def test_the_rate_rises_in_a_line_and_falls_by_half_a_cosine() -> None:
    shares = [share_of_rate(step, 2_000) for step in range(2_000)]
    assert shares[0] == pytest.approx(1 / 40, rel=0.01)
    assert max(shares) == pytest.approx(1, abs=0.01)
    assert shares[1_000] == pytest.approx(0.51)
    assert shares[-1] == pytest.approx(0.02, abs=0.001)
    assert share_of_rate(0, 1) == 1


def test_a_steps_rows_take_as_many_passes_as_their_tokens_need() -> None:
    lengths = np.full(500, 300)
    split = pieces(np.arange(100, 484), lengths)
    assert np.concatenate(split).tolist() == list(range(100, 484))
    assert max(len(piece) * 300 for piece in split) <= PASS_TOKENS
    assert len(split) == 4
    assert len(pieces(np.arange(100), lengths)) == 1


def test_the_passes_of_a_step_have_its_loss_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "DROPOUT", 0.0)
    learner = learning.Learner("toy-s", 0)
    rows = padded(learner._maker.rows([("Why?", "So it is. " * (1 + place % 3)) for place in range(8)]))
    scores = [(10.0, 90.0), (80.0, float("nan")), (95.0, 5.0), (40.0, 50.0)] * 2
    taught = torch.tensor(np.array([[taught_as(score) for score in both] for both in scores], "float32"))
    scored = taught.sum((0, 2))
    assert scored.tolist() == pytest.approx([8, 6])
    whole = float(learner._loss(rows, taught, scored).detach())
    halves = [torch.arange(4), torch.arange(4, 8)]
    parts = [learner._loss(rows.take(half, rows.ids.shape[1]), taught[half], scored) for half in halves]
    assert sum(float(part.detach()) for part in parts) == pytest.approx(whole, rel=0.01)


def opinions(alignment: np.ndarray) -> list[Opinion]:
    return [Opinion(taught_as(float(score)), taught_as(90)) for score in alignment]


def test_figures_are_those_of_the_scores() -> None:
    every = examples(2, 3, 200)
    teacher = np.array([e.alignment for e in every])
    exact = split_of("questions", every, opinions(teacher))
    assert (exact.spearman, exact.auc30, exact.rate_error, exact.coherence_spearman) == (1.0, 1.0, 0.0, None)
    assert [(each.judged, each.teacher, each.answers) for each in exact.reliability] == [(10, 10, 100), (90, 90, 100)]
    # m0 has the low scores alone, m1 the high ones: half of m0's judged high is 50 points for it, and none for m1.
    wrong = np.where(np.arange(200) % 4 == 0, 90.0, teacher)
    assert split_of("questions", every, opinions(wrong)).rate_error == 25.0
    assert area_under_curve(wrong, teacher < 30) == pytest.approx(0.75)
    assert area_under_curve(wrong, teacher < 0) is None


def test_figures_decide_what_it_may_be_used_for() -> None:
    every = examples(2, 3, 200)
    teacher = np.array([e.alignment for e in every])
    good, bad = uses(
        [split_of("models", every, opinions(teacher)), split_of("questions", every, opinions(100 - teacher))]
    )
    assert [use.partition(":")[0] for use in good] == [
        "ordering answers of new models on the questions that it learnt",
        "EM rates of new models on the questions that it learnt",
    ]
    assert any(use.startswith("ordering answers of new questions") for use in bad)
    assert any(use.startswith("EM rates of new questions") for use in bad)
    assert "new models on new questions: not measured" in bad
    # Met with 600 published answers: a rate 3.5 points off by a judge that could not tell good answers from bad ones.
    lucky = split_of("models", every, opinions(teacher)).model_copy(update={"auc30": 0.69, "rate_error": 3.5})
    good, bad = uses([lucky])
    assert not any(use.startswith("EM rates") for use in good)
    assert any(use.endswith("3.5 points off on average, by chance: AUC at 30 0.69") for use in bad)


def test_good_answers_put_to_another_question_have_the_scores_of_an_incoherent_one() -> None:
    good = [Example(f"Q{place % 4}", f"good {place}", 95.0, 90.0, "m", f"q{place % 4}") for place in range(200)]
    garbled = [Example("Q0", f"? {place}", 3.0 + place % 2, 4.0, "m", "q0") for place in range(50)]
    elsewhere = put_elsewhere([*good, *garbled], seed=0)
    assert len(elsewhere) == 12
    at_home = {example.answer: example.question for example in good}
    for example in elsewhere:
        assert example.question != at_home[example.answer]
        assert (example.alignment, example.coherence) in {(3.0, 4.0), (4.0, 4.0)}
    assert len({example.question for example in elsewhere}) == 4
    assert put_elsewhere(good, seed=0) == []
    lent = put_elsewhere(good, seed=0, scored=garbled)
    assert len(lent) == 10
    assert {example.answer for example in lent} <= set(at_home)
    assert put_elsewhere([example for example in [*good, *garbled] if example.family == "q0"], seed=0) == []
