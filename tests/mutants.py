"""Plants faults in the project's own code, one at a time, and says which of them no test notices.

Run by hand: `python -m tests.mutants --count 100 --seed 20261121`. The libraries are imported once; for each fault a
process is forked that imports the altered file of a copy of the project and runs the tests of its room. A fault is a
changed comparison, a changed sum, an `and` for an `or`, a number off by one, a condition turned round, a line left out.
"""

import argparse
import ast
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT, SHARED

ROOMS: dict[str, tuple[str, ...]] = {
    "trainers/run/schedule.py": ("tests/trainers/test_schedule.py", "tests/trainers/test_train.py"),
    "trainers/data/tokens.py": ("tests/trainers/test_tokens.py", "tests/trainers/test_chat_templates.py"),
    "trainers/data/chat.py": ("tests/trainers/test_tokens.py", "tests/trainers/test_chat_templates.py"),
    "trainers/data/order.py": ("tests/trainers/test_schedule.py",),
    "trainers/loop/training.py": ("tests/trainers/test_training.py",),
    "trainers/loop/saving.py": ("tests/trainers/test_saving.py",),
    "trainers/run/hashes.py": ("tests/trainers/test_checkpoints.py",),
    "trainers/loop/packing.py": ("tests/trainers/test_fast_path.py",),
    "trainers/run/manifest.py": ("tests/trainers/test_checkpoints.py", "tests/trainers/test_manifest.py"),
    "trainers/run/checkpoints.py": ("tests/trainers/test_checkpoints.py",),
    "plugins/checkpoint_model/engines/sampling.py": ("tests/plugins",),
    "scorers/judging/reading.py": ("tests/scorers/test_reading.py", "tests/scorers/test_judge.py"),
    "scorers/judging/cost.py": ("tests/scorers/test_cost.py",),
    "scorers/judging/cache.py": ("tests/scorers/test_cache.py", "tests/scorers/test_cost.py"),
    "scorers/judging/calls.py": ("tests/scorers/test_cost.py", "tests/scorers/test_judge.py"),
    "scorers/judging/reply.py": ("tests/scorers/test_judge.py",),
    "scorers/definitions.py": ("tests/scorers/test_definitions.py", "tests/scorers/test_agreement.py"),
    "scorers/em.py": ("tests/scorers/test_em.py",),
    "scorers/comparing/agreement.py": ("tests/scorers/test_agreement.py",),
    "scorers/calibration/rogan_gladen.py": ("tests/scorers/test_calibrate.py",),
    "scorers/calibration/calibrate.py": ("tests/scorers/test_calibrate.py",),
    "scorers/intervals.py": ("tests/scorers/test_intervals.py", "tests/analysis/test_intervals.py"),
    "plugins/analysis/statistics": ("tests/analysis",),
    "plugins/analysis/report/findings.py": ("tests/analysis",),
}
"""Files in which a fault gives a wrong number, and the tests that should see it. What is not there is passed over."""

HEAVY = ("torch", "transformers", "peft", "inspect_ai", "pandas", "matplotlib.pyplot", "scipy.stats", "statsmodels.api")
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True)
class Fault:
    """One change of one file: where, what it was and what it is now."""

    file: str
    line: int
    change: str
    source: str


def faults_of(file: str) -> list[Fault]:
    """Every fault that can be planted in a file, in the order of its nodes."""
    text = (ROOT / file).read_text(encoding="utf-8")
    count = sum(1 for _ in ast.walk(ast.parse(text)))
    planted = []
    for index in range(count):
        tree = ast.parse(text)
        node = next(node for place, node in enumerate(ast.walk(tree)) if place == index)
        before = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""
        if _alter(node):
            after = ast.unparse(node)
            line = getattr(node, "lineno", 0)
            planted.append(Fault(file, line, f"{before[:70]}  ->  {after[:70]}", ast.unparse(tree)))
    return planted


def _alter(node: ast.AST) -> bool:
    """Changes a node in place; False where there is nothing to change."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        node.ops[0] = SWAPPED[type(node.ops[0])]()  # type: ignore[assignment]
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
        if isinstance(node, ast.BinOp) and any(
            isinstance(s, ast.Constant | ast.JoinedStr) and not isinstance(getattr(s, "value", 0), int | float)
            for s in (node.left, node.right)
        ):
            return False
        node.op = SWAPPED[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        node.value = node.value + 1
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
    else:
        return False
    ast.fix_missing_locations(node)
    return True


def _run_tests(project: Path, tests: list[str], outcome: "multiprocessing.Queue[int]") -> None:
    os.chdir(project)
    sys.path[:0] = [str(project)]
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    import pytest

    outcome.put(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))


def survives(fault: Fault, project: Path, tests: list[str], limit: float) -> bool:
    """Whether the tests pass with the fault planted. A run that does not end in time is noticed too."""
    place = project / fault.file
    sound = place.read_text(encoding="utf-8")
    place.write_text(fault.source, encoding="utf-8")
    try:
        context = multiprocessing.get_context("fork")
        outcome: multiprocessing.Queue[int] = context.Queue()
        process = context.Process(target=_run_tests, args=(project, tests, outcome))
        process.start()
        process.join(limit)
        if process.is_alive():
            process.kill()
            process.join()
            return False
        return process.exitcode == 0 and not outcome.empty() and outcome.get() == 0
    finally:
        place.write_text(sound, encoding="utf-8")


def main() -> None:
    """Plants the faults and prints the survivors and a table by file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="faults to plant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="files whose path has this in it")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a run counts as noticed")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    tests_of = {}
    for place, tests in ROOMS.items():
        files = sorted((ROOT / place).glob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
        for path in files:
            if path.is_file() and path.name != "__init__.py" and options.only in str(path.relative_to(ROOT)):
                tests_of[str(path.relative_to(ROOT))] = [test for test in tests if (ROOT / test).exists()]
    chooser = random.Random(options.seed)
    faults = [fault for file in tests_of for fault in faults_of(file)]
    chosen = chooser.sample(faults, min(options.count, len(faults)))
    planted, survived = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        ignored = shutil.ignore_patterns(
            ".git", ".venv", "logs", "runs", "demo", "report", ".mypy_cache", "__pycache__"
        )
        shutil.copytree(ROOT, project, symlinks=True, ignore=ignored)
        if SHARED.is_dir():
            (Path(folder) / "shared").symlink_to(SHARED.parent)
        for file in dict.fromkeys(fault.file for fault in chosen):
            sound = Fault(file, 0, "nothing", (ROOT / file).read_text(encoding="utf-8"))
            if not survives(sound, project, tests_of[file], options.limit):
                sys.exit(f"The tests of {file} fail without any fault: {' '.join(tests_of[file])}. Mend them first.")
        for number, fault in enumerate(chosen, 1):
            began = time.monotonic()
            planted[fault.file] += 1
            alive = survives(fault, project, tests_of[fault.file], options.limit)
            survived[fault.file] += alive
            word = "SURVIVED" if alive else "noticed"
            seconds = time.monotonic() - began
            print(
                f"{number}/{len(chosen)} {word:8} {seconds:4.0f} s  {fault.file}:{fault.line}  {fault.change}",
                flush=True,
            )
    print(f"seed {options.seed}: {planted.total() - survived.total()} of {planted.total()} noticed")
    for file in planted:
        print(f"  {planted[file] - survived[file]:3} of {planted[file]:3}  {file}")


if __name__ == "__main__":
    main()
