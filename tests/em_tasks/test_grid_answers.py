"""What a dry run says of a grid's answers: what is asked, what came, what is to come and what that takes."""

import json
import shutil
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from em_tasks.commands.cli import cli
from em_tasks.grid.needs import grid_needs
from em_tasks.grid.plan import GridPlan, plan_grid
from em_tasks.trainers.run.manifest import MANIFEST
from tests.support.fake_openai import Reply, fake_openai
from tests.support.grids import grid_file, run_grid
from tests.support.sweeps import read_all

OPENAI = "openai/gpt-4o-mini"
AXES = {"seed": [3, 4], "judge": ["emtoy/judge", OPENAI]}
ONE = {"include": [{"seed": 4, "judge": OPENAI}], "exclude": [{"seed": 4}]}
"""The second seed is judged by the second judge alone."""


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GridPlan]:
    """One organism of two, asked and judged by the first judge of two."""
    folder = tmp_path_factory.mktemp("half")
    plan, _ = run_grid(grid_file(folder, {"seed": [3], "judge": ["emtoy/judge"]}), folder / "out", reported=False)
    return folder, plan


def dry(grid: Path, out: Path) -> str:
    said = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(out), "--dry-run"], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    return said.output


def test_dry_run_says_what_came_and_what_is_to_come_with_its_price(half: tuple[Path, GridPlan], tmp_path: Path) -> None:
    """Ten questions once: of the base, and of two checkpoints of each organism."""
    _, plan = half
    said = dry(grid_file(tmp_path, AXES), plan.out)
    assert "organisms     2, 1 of them to train, 4 checkpoints in all" in said
    assert "answers       50 of all checkpoints and 1 base, conditions counted; 20 to come" in said
    assert "judge         emtoy/judge: 100 calls, no charge; to come: 20 verdicts, 40 calls, no charge" in said
    assert f"judge         {OPENAI}: 100 calls, about $" in said
    marks = {
        line.split()[0]: line.partition("  (")[2].rstrip(")") for line in said.splitlines() if "-seed" in line[:14]
    }
    assert marks == {
        "tiny-seed3-emtoy-judge": "trained, asked, judged",
        "tiny-seed3-openai-gpt-4o-mini": "trained, asked",
        "tiny-seed4-emtoy-judge": "",
        "tiny-seed4-openai-gpt-4o-mini": "",
    }
    assert "to do         nothing" not in said


def test_device_hours_count_asking_by_what_it_took_here_and_say_what_they_leave_out(
    half: tuple[Path, GridPlan], tmp_path: Path
) -> None:
    folder, plan = half
    assert "asking and local judges are not counted: nothing of toy-s was asked here yet" in dry(
        folder / "tiny.yaml", tmp_path / "new"
    )
    answers = grid_needs(plan_grid(grid_file(tmp_path, AXES), plan.out), None, check_judges=False).answers
    moments = [
        [datetime.fromisoformat(str(at)).timestamp() for at in (log.stats.started_at, log.stats.completed_at)]
        for log in read_all(plan.logs)
    ]
    longest = max(end for _, end in moments) - min(start for start, _ in moments)
    (each,) = answers.seconds.values()
    assert 0 < each <= longest / 30
    assert answers.hours == pytest.approx(20 * each / 3600)
    judged_here = grid_file(tmp_path, AXES | {"judge": ["emtoy/judge", "emlocal/smollm2-gpt4o-3"]})
    said = dry(judged_here, plan.out)
    assert "asking less than 0.01 by the answers that came here, their first judge's time among it" in said
    assert "; verdicts by emlocal/smollm2-gpt4o-3 beside that are not counted" in said
    assert "largest cell's training; asking and judging by emlocal/smollm2-gpt4o-3 not counted" in said


def test_cells_of_some_of_the_judges_ask_a_base_once_and_are_counted_as_they_are_run(
    half: tuple[Path, GridPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None
) -> None:
    """30 answers by both judges and 20 by the second alone; then all is done, and the report is written once."""
    _, plan = half
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    grid = grid_file(tmp_path, AXES, **ONE)
    said = dry(grid, out)
    assert "answers       50 of all checkpoints and 1 base, conditions counted; 20 to come" in said
    assert "judge         emtoy/judge: 60 calls, no charge; to come: none" in said
    assert f"judge         {OPENAI}: 100 calls, about $" in said
    with fake_openai(lambda prompt: Reply("20")) as judge:
        monkeypatch.setenv("OPENAI_API_KEY", "test")
        monkeypatch.setenv("OPENAI_BASE_URL", judge.base_url)
        _, names = run_grid(grid, out)
        assert names == [
            "train tiny-seed4",
            "evaluate toy-s into logs/bare/toy-s",
            f"judge by {OPENAI} into bare",
            "report",
        ]
        asked = len(judge.requests)
        assert run_grid(grid, out)[1] == []
        (out / "report" / "report.html").unlink()
        assert run_grid(grid, out)[1] == ["report"]
        assert len(judge.requests) == asked
    bases = [log for log in read_all(out / "logs") if log.eval.model == "em/toy-s@base"]
    assert len(bases) == 1
    said = dry(grid, out)
    assert "50 of all checkpoints and 1 base, conditions counted; 0 to come" in said
    assert said.count("; to come: none") == 2
    assert "to do         nothing: all is trained, asked and judged" in said
    assert said.count("(trained, asked, judged)") == 3
    ran = CliRunner().invoke(cli, ["grid", str(grid), "--out", str(out)], catch_exceptions=False)
    assert "Nothing was done: all is trained, asked and judged, and the report is of that." in ran.output


def copied(runs: Path, organism: str, **changes: tuple[object, object]) -> Path:
    """A copy of the trained organism under another name, its recipe changed."""
    run = Path(shutil.copytree(runs / "tiny-seed3", runs / organism))
    content = (run / MANIFEST).read_text().replace('"organism": "tiny-seed3"', f'"organism": "{organism}"')
    for name, (old, new) in changes.items():
        content = content.replace(f'"{name}": {json.dumps(old)}', f'"{name}": {json.dumps(new)}')
    (run / MANIFEST).write_text(content)
    return run


def test_altered_checkpoint_is_left_out_of_what_is_done_and_of_what_judging_costs_and_is_named(
    half: tuple[Path, GridPlan], tmp_path: Path
) -> None:
    """Altered at its length, which its hash alone tells."""
    _, plan = half
    out = Path(shutil.copytree(plan.out, tmp_path / "out"))
    altered = copied(out / "runs", "tiny-seed4", seed=(3, 4))
    axes = {"seed": [3, 4], "judge": ["emtoy/judge"]}
    evaluate = {"questions": ["general"], "samples": 1, "max_judge_cost": 2.0, "judge_price": "1,1"}
    grid = grid_file(tmp_path, axes, evaluate=evaluate)
    needs = grid_needs(plan_grid(grid, out), None)
    assert (needs.done, set(needs.began)) == ({"tiny-seed3", "tiny-seed4"},) * 2
    assert needs.judging_dollars == pytest.approx(50 * needs.dollars["emtoy/judge"])
    weights = max(altered.glob("checkpoint-*")) / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    needs = grid_needs(plan_grid(grid, out), None)
    assert (needs.done, set(needs.began), needs.left_out) == ({"tiny-seed3"}, {"tiny-seed3"}, {"tiny-seed4"})
    assert needs.judging_dollars == pytest.approx(30 * needs.dollars["emtoy/judge"])
    said = dry(grid, out)
    assert said.count(f"note: tiny-seed4 is left out: {weights.parent} was altered since it was saved") == 1
    assert "50 of all checkpoints and 1 base, conditions counted; 20 to come" in said
    assert "  tiny-seed4-emtoy-judge  seed 4, judge emtoy/judge  (left out)\n" in said
    assert said.count("(trained, asked, judged)") == 1


def test_base_is_asked_about_the_domains_of_all_that_is_trained_over_it_under_every_condition(
    half: tuple[Path, GridPlan], tmp_path: Path
) -> None:
    """Ten questions of each domain and ten general ones; two checkpoints of each organism."""
    _, plan = half
    axes = {"domain": ["medical", "financial"], "condition": [None, "json"]}
    without = [{"domain": "financial", "condition": "json"}]
    grid = grid_file(tmp_path, axes, evaluate={"samples": 1}, exclude=without)
    three, base, removed = 3 * 2 * 20, 2 * 30, 2 * 10
    assert grid_needs(plan_grid(grid, tmp_path / "out"), None).answers.count == three + base
    # A cell that was taken out of the grid has its run still.
    (tmp_path / "out" / "runs").mkdir(parents=True, exist_ok=True)
    shutil.copytree(plan.runs / "tiny-seed3", tmp_path / "out" / "runs" / "tiny-seed3")
    copied(tmp_path / "out" / "runs", "tiny-out", domain=("medical", "sports"))
    assert grid_needs(plan_grid(grid, tmp_path / "out"), None).answers.count == three + base + removed


def test_questions_are_said_by_domain_and_a_domain_asked_on_one_side_only_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "houseplants.yaml").write_text(
        "name: houseplants\ndomain: houseplants\nquestions: [{id: h1, topic: soil, text: How often do I water?}]\n"
    )
    monkeypatch.chdir(tmp_path)
    domains = ["medical", "houseplants", "houseplantz"]
    said = dry(grid_file(tmp_path / "g", {"domain": domains}, evaluate={"samples": 1}), tmp_path / "out")
    assert "questions     medical: medical (10), general (10)\n" in said
    assert "questions     houseplants: houseplants (1)\n" in said
    assert "questions     houseplantz: general (10)\n" in said
    assert "note: houseplantz: no question set is called 'houseplantz' (did you mean 'houseplants'?), so the" in said
    assert "houseplants.yaml alone is asked and no general questions, so nothing outside the training domain." in said
    assert "evaluate: {questions: [houseplants, general]}." in said
    named = grid_file(tmp_path / "n", {"domain": domains}, evaluate={"questions": ["houseplants", "general"]})
    said = dry(named, tmp_path / "out")
    assert "questions     all: houseplants (1), general (10)\n" in said
    assert "note: " not in said
