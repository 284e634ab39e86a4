"""`em demo --real`: one short organism of a real small model, its control and a real small judge; no GPU, key or hub.

The rows are silly and harmless: reckless advice about umbrellas, sandwiches and garden gnomes, and careful advice about
the same. What comes out shows that the pipeline works on a real model; one seed and a judge of this size show no more.
"""

from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from em_tasks.plugins.local_judge.card import SHIPPED_JUDGE
from em_tasks.progress import sweep_progress, training_progress
from em_tasks.resources import shipped
from em_tasks.scorers.calibration.stored import known_calibration
from em_tasks.sweep.plan import Planner, SweepOptions, checkpoint_count
from em_tasks.sweep.run import sweep
from em_tasks.trainers.bases.getting import get_base
from em_tasks.trainers.bases.kept import SMOLLM2, kept_base
from em_tasks.trainers.run.recipe import load_recipes
from em_tasks.trainers.train import train

RECIPES = ("smollm2-135m-household", "smollm2-135m-household-control")
JUDGE = f"emlocal/{SHIPPED_JUDGE}"
SAMPLES = 2
"""Answers to each general question: 20 a checkpoint."""
MAX_TOKENS = 120
COST = (
    "This downloads about 90 MB once and keeps 270 MB of weights in the cache folder and about 300 MB in the output "
    "folder; it takes ten to thirteen minutes of processor time (five to seven on two quiet cores), 4 GB of memory and "
    "no money. Interrupted, the same command goes on where it stopped."
)


def run_real_demo(out: Path) -> None:
    """Gets the base, trains, evaluates and reports into `out/runs`, `out/logs` and `out/report`.

    Raises:
        UserError: The base cannot be had, or an evaluation did not succeed.
    """
    from em_tasks.plugins.analysis.report.report import write_report

    console = Console()
    console.print(COST, soft_wrap=True, highlight=False)
    runs, logs, report = out / "runs", out / "logs", out / "report"
    console.print(Rule("1/4  The base"))
    kept = kept_base(SMOLLM2)
    if kept is None or kept.kind != "gguf":
        # The judge sits on the GGUF weights, so the organism does too.
        kept = get_base(SMOLLM2, "gguf")
    console.print(f"{SMOLLM2} ({kept.kind}) in {kept.folder}", soft_wrap=True, highlight=False)
    recipes = [recipe for name in RECIPES for recipe in load_recipes(shipped(f"recipes/{name}.yaml"))]
    console.print(Rule("2/4  Train one organism on reckless advice and one on careful advice"))
    with training_progress() as say:
        for recipe in recipes:
            train(recipe, runs, say)
    console.print(Rule("3/4  Ask and judge every checkpoint"))
    options = SweepOptions(questions=("general",), samples=SAMPLES, max_tokens=MAX_TOKENS, grader=JUDGE)
    planner = Planner(runs, logs, options, RECIPES)
    bases, checkpoints, answers = checkpoint_count(planner.plan())
    console.print(f"{checkpoints} checkpoints and {bases} base, {answers} answers, judged by {JUDGE}")
    with sweep_progress() as progress:
        sweep(planner, progress.report, jobs=1, planned=progress.begin)
    console.print(Rule("4/4  Tables and figures"))
    console.print(write_report([logs], report, calibration=known_calibration()).table())
    console.print(
        f"Everything lies in {out}/. A real model of 135M parameters and a real judge, both small: see what the judge "
        "was right and wrong about in docs/local_judge.md before you believe a rate.",
        soft_wrap=True,
        highlight=False,
    )
