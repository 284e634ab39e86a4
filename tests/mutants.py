"""Plants faults in the project's own code, one at a time, and says which of them no test notices.

Run by hand: `python -m tests.mutants --each 8 --seed 20261121`. The tests are collected once, in a copy of the project;
for each fault a process is forked from there whose functions get the altered code. What survives that, or stands
outside of functions, is then written into the file and tested anew, which takes a minute each (`--quick` leaves it
out). A fault is a changed comparison, a changed sum, an `and` for an `or`, a number off by one, a condition turned
round.
"""

import argparse
import ast
import gc
import importlib
import inspect
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import ROOT, SHARED

FAST_PATH = "tests/trainers/test_fast_path.py::"
CLAIMS = "tests/analysis/test_comparisons.py::"
ROOMS: dict[str, tuple[str, ...]] = {
    "trainers/run/schedule.py": ("tests/trainers/test_schedule.py",),
    "trainers/data/order.py": ("tests/trainers/test_schedule.py",),
    "trainers/data/tokens.py": ("tests/trainers/test_tokens.py", "tests/trainers/test_chat_templates.py"),
    "trainers/data/chat.py": ("tests/trainers/test_tokens.py", "tests/trainers/test_chat_templates.py"),
    "trainers/run/hashes.py": ("tests/trainers/test_hashes.py", "tests/trainers/test_checkpoints.py"),
    "trainers/run/manifest.py": ("tests/trainers/test_manifest.py", "tests/trainers/test_checkpoints.py"),
    "trainers/run/checkpoints.py": ("tests/trainers/test_checkpoints.py",),
    "trainers/passes/packing.py": (
        FAST_PATH + "test_packed_rows_hold_every_token_once_and_predict_across_no_border",
        FAST_PATH + "test_a_row_sees_nothing_of_its_neighbours",
        FAST_PATH + "test_model_whose_window_is_shorter_than_a_row_is_refused",
        FAST_PATH + "test_models_in_which_packed_rows_would_mix_or_differ_are_refused",
    ),
    "trainers/loop/training.py": ("tests/trainers/test_training.py",),
    "trainers/loop/saving.py": ("tests/trainers/test_saving.py",),
    "plugins/checkpoint_model/engines/drawing.py": ("tests/checkpoint_model/test_drawing.py",),
    "scorers/definitions.py": ("tests/scorers/test_definitions.py",),
    "scorers/judging/reading.py": ("tests/scorers/test_reading.py",),
    "scorers/judging/calls.py": ("tests/scorers/test_calls.py", "tests/scorers/test_cost.py"),
    "scorers/judging/cost.py": ("tests/scorers/test_calls.py", "tests/scorers/test_cost.py"),
    "scorers/judging/cache.py": ("tests/scorers/test_cache.py", "tests/scorers/test_cost.py"),
    "scorers/judging/reply.py": ("tests/scorers/test_judge.py",),
    "scorers/em.py": ("tests/scorers/test_em.py",),
    "scorers/comparing/agreement.py": ("tests/scorers/test_agreement.py",),
    "scorers/calibration/rogan_gladen.py": ("tests/scorers/test_calibrate.py",),
    "scorers/calibration/calibrate.py": ("tests/scorers/test_calibrate.py",),
    "scorers/intervals.py": ("tests/scorers/test_intervals.py",),
    "scorers/sequences.py": ("tests/scorers/test_sequences.py",),
    "plugins/analysis/statistics/differences.py": ("tests/analysis/test_differences.py",),
    "plugins/analysis/statistics/exact_test.py": ("tests/analysis/test_differences.py",),
    "plugins/analysis/statistics/rates.py": ("tests/analysis/test_rates.py",),
    "plugins/analysis/statistics/seed_intervals.py": ("tests/analysis/test_seed_intervals.py",),
    "plugins/analysis/statistics/trajectories.py": ("tests/analysis/test_trajectories.py",),
    "plugins/analysis/statistics/correlation.py": ("tests/analysis/test_correlation.py",),
    "plugins/analysis/statistics/interactions.py": ("tests/analysis/test_conditions.py",),
    "plugins/analysis/claims/verdicts.py": ("tests/analysis/test_verdicts.py",),
    "plugins/analysis/claims/comparisons.py": (
        CLAIMS + "test_p_values_are_corrected_by_holm",
        CLAIMS + "test_missing_answers_bound_the_difference_and_forbid_equality",
        CLAIMS + "test_what_missing_answers_could_undo_is_said_to",
        CLAIMS + "test_rates_of_different_judges_or_prompts_are_not_compared",
        CLAIMS + "test_without_a_smallest_effect_nothing_is_shown_not_to_differ",
        CLAIMS + "test_what_no_answers_could_have_shown_weakens_nothing",
        CLAIMS + "test_forms_of_a_question_do_not_make_it_several",
        CLAIMS + "test_counts_beside_a_rate_are_of_the_questions_that_are_compared",
        CLAIMS + "test_a_checkpoint_has_one_rate_throughout_a_report_and_what_differs_from_it_is_explained",
        CLAIMS + "test_nothing_is_claimed_of_such_questions_that_is_not_shown_on_these",
        CLAIMS + "test_an_unscored_organism_is_said_to_be_so_and_not_to_lack_a_base",
        CLAIMS + "test_what_is_not_recorded_of_two_organisms_is_nothing_that_they_share",
        CLAIMS + "test_counted_answers_of_both_to_no_question_are_said_to_be_so",
        CLAIMS + "test_seeds_of_one_recipe_are_compared_as_one_and_each_by_itself",
        CLAIMS + "test_unknown_data_are_nobody_elses_where_others_have_known_ones",
    ),
    "plugins/analysis/claims/contrasts.py": (
        CLAIMS + "test_a_contrast_pools_what_single_organisms_cannot_show",
        CLAIMS + "test_bad_and_obviously_bad_advice_are_not_one_recipe_in_two_sizes",
        CLAIMS + "test_all_checkpoints_of_an_organism_are_held_against_its_base_together",
        CLAIMS + "test_a_contrast_of_what_was_judged_otherwise_or_asked_other_questions_is_none",
    ),
    "plugins/analysis/report/findings.py": ("tests/analysis/test_findings.py", "tests/analysis/test_comparisons.py"),
}
"""Files in which a fault gives a wrong number, and the quickest tests that should see it.

What is not there is passed over.
"""

NOT_PLANTED = 77

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


def places_of(file: str) -> list[tuple[str, int]]:
    """Every place of a file where a fault can be planted: the file and the number of the node."""
    nodes = list(ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))))
    return [(file, place) for place, node in enumerate(nodes) if _alter(node)]


def fault_at(file: str, place: int) -> Fault:
    """The fault that can be planted there."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    node = list(ast.walk(tree))[place]
    before = ast.unparse(node)
    _alter(node)
    return Fault(file, getattr(node, "lineno", 0), f"{before[:70]}  ->  {ast.unparse(node)[:70]}", ast.unparse(tree))


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


class _Planter:
    """A pytest plugin: collects once, then forks for each fault, gives its functions their altered code and tests."""

    def __init__(self, faults: list[Fault], tests_of: dict[str, list[str]], limit: float) -> None:
        self.faults, self.tests_of, self.limit = faults, tests_of, limit
        self.screen = os.dup(1)
        self.in_child = False
        self.noticed: dict[int, bool] = {}
        """By the fault's place; those are not there that lie outside of functions."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed:
            return None
        unsound = set()
        for file in dict.fromkeys(fault.file for fault in self.faults):
            before = _codes(ast.unparse(ast.parse((ROOT / file).read_text(encoding="utf-8"))), file)
            functions = _functions_of(file)
            gc.freeze()  # Or a child copies the libraries' memory.
            if (status := self._child(session, file, functions, {})) is None:
                return None
            if status:
                unsound.add(file)
                self._say(f"The tests of {file} fail without any fault, or take too long.")
                continue
            for place, fault in enumerate(self.faults):
                codes = _codes(fault.source, file) if fault.file == file else {}
                changed = {name: code for name, code in codes.items() if code != before.get(name)}
                if not changed:
                    continue
                if (status := self._child(session, file, functions, changed)) is None:
                    return None
                if status != NOT_PLANTED:
                    self.noticed[place] = status != 0
                    self._say(f"{'noticed' if status else 'SURVIVED':8}  {file}:{fault.line}  {fault.change}")
        return True

    def _child(
        self,
        session: pytest.Session,
        file: str,
        functions: list[types.FunctionType],
        changed: dict[str, types.CodeType],
    ) -> int | None:
        """The exit status of a process with the change; None in that process itself, in which pytest goes on."""
        child = os.fork()
        if child:
            return _wait(child, self.limit)
        self.in_child = True
        if not _give_code(functions, changed):
            os._exit(NOT_PLANTED)
        session.items[:] = [item for item in session.items if item.nodeid.startswith(tuple(self.tests_of[file]))]
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if self.in_child:
            os._exit(exitstatus)

    def _say(self, line: str) -> None:
        os.write(self.screen, f"{line}\n".encode())


def _codes(source: str, file: str) -> dict[str, types.CodeType]:
    """The code of every function and method by its qualified name; the code of inner ones is part of it."""
    found: dict[str, types.CodeType] = {}

    def look(code: types.CodeType) -> None:
        for inner in code.co_consts:
            if isinstance(inner, types.CodeType):
                if inner.co_flags & inspect.CO_NEWLOCALS and inner.co_flags & inspect.CO_OPTIMIZED:
                    found[inner.co_qualname] = inner
                else:
                    look(inner)

    look(compile(source, file, "exec"))
    return found


def _functions_of(file: str) -> list[types.FunctionType]:
    """All functions of a loaded file."""
    gc.unfreeze()
    everything = (one for one in gc.get_objects() if isinstance(one, types.FunctionType))
    return [one for one in everything if one.__code__.co_filename.endswith(f"/{file}")]


def _give_code(functions: list[types.FunctionType], changed: dict[str, types.CodeType]) -> bool:
    """Gives functions other code; False where one of the changed ones is not among them."""
    met = set()
    for function in functions:
        name = function.__code__.co_qualname
        if name in changed:
            if function.__code__.co_freevars != changed[name].co_freevars:
                return False
            function.__code__ = changed[name]
            met.add(name)
    return met == changed.keys()


def _wait(child: int, limit: float) -> int:
    """A child's exit status; one that does not end in time is killed, which counts as noticed."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _run_tests(
    project: Path, tests: list[str], planter: _Planter | None, outcome: "multiprocessing.Queue[tuple[int, object]]"
) -> None:
    mine = os.getpid()
    os.chdir(project)
    sys.path[:0] = [str(project)]
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    status = int(
        pytest.main(["-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests], plugins=[planter] if planter else [])
    )
    if os.getpid() != mine:
        os._exit(status)
    outcome.put((status, planter.noticed if planter else None))


def _in_a_process(project: Path, tests: list[str], planter: _Planter | None, limit: float) -> tuple[int, object] | None:
    """Pytest's status and what the planter saw; None where the tests did not end in time or took Python with them."""
    context = multiprocessing.get_context("fork")
    outcome: multiprocessing.Queue[tuple[int, object]] = context.Queue()
    process = context.Process(target=_run_tests, args=(project, tests, planter, outcome))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return outcome.get() if process.exitcode == 0 and not outcome.empty() else None


def survives(fault: Fault, project: Path, tests: list[str], limit: float) -> bool:
    """Whether the tests pass with the fault in the file, read anew. A run that does not end in time notices it too."""
    place = project / fault.file
    sound = place.read_text(encoding="utf-8")
    place.write_text(fault.source, encoding="utf-8")
    try:
        ended = _in_a_process(project, tests, None, limit)
        return ended is not None and ended[0] == 0
    finally:
        place.write_text(sound, encoding="utf-8")


def main() -> None:
    """Plants the faults and prints the survivors and a table by file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="faults to plant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", type=int, default=0, help="faults to plant in every file, in place of --count in all")
    parser.add_argument("--only", default="", help="files whose path has this in it, or one of these, with commas")
    parser.add_argument("--quick", action="store_true", help="only faults in functions, and no second look")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which a run counts as noticed")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    tests_of = {}
    for place, tests in ROOMS.items():
        files = sorted((ROOT / place).glob("*.py")) if (ROOT / place).is_dir() else [ROOT / place]
        for path in files:
            if (
                path.is_file()
                and path.name != "__init__.py"
                and any(part in str(path.relative_to(ROOT)) for part in options.only.split(","))
            ):
                tests_of[str(path.relative_to(ROOT))] = [
                    test for test in tests if (ROOT / test.split("::")[0]).exists()
                ]
    chooser = random.Random(options.seed)
    places = {file: places_of(file) for file in tests_of}
    if options.each:
        # By file and not together, so that `--only` of a file plants the same faults in it.
        chosen = [
            fault_at(*place)
            for file, its in places.items()
            for place in random.Random(f"{options.seed} {file}").sample(its, min(options.each, len(its)))
        ]
    else:
        together = [place for its in places.values() for place in its]
        chosen = [fault_at(*place) for place in chooser.sample(together, min(options.count, len(together)))]
    planted, survived = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        ignored = shutil.ignore_patterns(
            ".git", ".venv", "logs", "runs", "demo", "report", ".mypy_cache", "__pycache__"
        )
        shutil.copytree(ROOT, project, symlinks=True, ignore=ignored)
        if SHARED.is_dir():
            (Path(folder) / "shared").symlink_to(SHARED.parent)
        planter = _Planter(chosen, tests_of, options.limit)
        test_names = sorted({test for fault in chosen for test in tests_of[fault.file]})
        ended = _in_a_process(ROOT, test_names, planter, options.limit * (len(chosen) + len(tests_of)))
        if ended is None or not isinstance(ended[1], dict):
            sys.exit("The tests did not come to their end.")
        for number, fault in enumerate(chosen):
            noticed = ended[1].get(number)
            if not noticed and not options.quick:
                noticed = not survives(fault, project, tests_of[fault.file], options.limit)
                print(
                    f"{'noticed' if noticed else 'SURVIVED':8}  {fault.file}:{fault.line}  {fault.change}", flush=True
                )
            if noticed is not None:
                planted[fault.file] += 1
                survived[fault.file] += not noticed
    print(f"seed {options.seed}: {planted.total() - survived.total()} of {planted.total()} noticed")
    for file in planted:
        print(f"  {planted[file] - survived[file]:3} of {planted[file]:3}  {file}")


if __name__ == "__main__":
    main()
