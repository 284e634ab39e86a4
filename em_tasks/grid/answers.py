"""A grid's answers and verdicts: how many there will be, and how many of them came, by what lies in its folder."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from em_tasks.grid.plan import AskedAlike, GridPlan
from em_tasks.plugins.errors import UserError
from em_tasks.questions import load_question_sets, sets_for_domains
from em_tasks.sweep.estimate import seconds_at_work
from em_tasks.sweep.failures import what_failed
from em_tasks.sweep.logs import outstanding, read_logs
from em_tasks.sweep.plan import Job, Planner
from em_tasks.trainers.run.checkpoints import list_runs
from em_tasks.trainers.run.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

Asked = tuple[str, str]
"""An organism's name and nothing, or a base and its precision."""


@dataclass
class Answers:
    """A grid's answers.

    Attributes:
        count: Answers in all.
        came: Those that came.
        bases: How many bases are asked, once for each condition.
        judged: Answers that each judge judges.
        verdicts: Those of them that it has judged.
        left_out: Those of them that it will not be asked about: of organisms that are left out.
        of_bases: Answers to come of each base and its precision, its organisms' among them.
        seconds: What an answer over each base took here, asking and the first judge together; bases asked before alone.
        asked: Names of cells whose organism's every checkpoint was asked.
        scored: Names of cells whose judge has judged these answers.
        damaged: Why each organism is left out whose checkpoints are not what was saved.
        notes: Why somebody's answers could not be counted, a sentence each.
    """

    count: int = 0
    came: int = 0
    bases: int = 0
    judged: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    of_bases: Counter[Asked] = field(default_factory=Counter)
    seconds: dict[Asked, float] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    scored: set[str] = field(default_factory=set)
    damaged: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def to_come(self) -> int:
        """Answers to come."""
        return self.count - self.came

    @property
    def hours(self) -> float:
        """Hours that the answers to come take where an answer over their base was measured."""
        return sum(self.seconds.get(base, 0.0) * count for base, count in self.of_bases.items()) / 3600

    @property
    def unmeasured(self) -> list[str]:
        """Bases with answers to come of which none was measured."""
        return sorted({base[0] for base, count in self.of_bases.items() if count and base not in self.seconds})

    @property
    def to_judge(self) -> Counter[str]:
        """Verdicts of each judge to come, an answer each."""
        return Counter({judge: count - self.verdicts[judge] for judge, count in self.judged.items()})


def count_answers(plan: GridPlan, checkpoints: Mapping[str, int], left_out: Collection[str] = ()) -> Answers:
    """Counts a grid's answers.

    Args:
        plan: The grid.
        checkpoints: How many each organism will have.
        left_out: Organisms known to be damaged.

    Raises:
        UserError: There is no such question set.
    """
    answers, came = Answers(), dict[tuple[str | None, str, str], bool]()
    timed: dict[Asked, dict[Path, EvalLog]] = {}
    trained = _trained_domains(plan)
    for group in plan.groups:
        expected = dict(_expected(plan, group, checkpoints, trained))
        done = _done(plan, group, expected, timed, answers)
        for who, count in expected.items():
            organism, rest = who
            recipe = plan.organisms.get(organism)
            base = who if rest or recipe is None else (recipe.base, recipe.precision)
            judges = (str(group.options.grader), *group.judges)
            answers.count += count
            answers.came += done[who, None]
            answers.of_bases[base] += count - done[who, None]
            answers.bases += bool(rest)
            for judge in judges:
                answers.judged[judge] += count
                answers.verdicts[judge] += done[who, judge]
                if organism in left_out or organism in answers.damaged:
                    answers.left_out[judge] += count - done[who, judge]
                if not rest:
                    came[group.options.condition, organism, judge] = done[who, judge] == count
            if not rest and done[who, None] == count:
                came[group.options.condition, organism, ""] = True
    answers.seconds = {base: seconds for base, logs in timed.items() if (seconds := _seconds_an_answer(logs))}
    for cell in plan.cells:
        at = (plan.condition_of(cell), cell.recipe.organism)
        if came.get((*at, "")):
            answers.asked.add(cell.name)
        if came.get((*at, cell.judge)):
            answers.scored.add(cell.name)
    return answers


def _trained_domains(plan: GridPlan) -> dict[Asked, set[str]]:
    """What a base is asked about: all that is or will be trained over it, under whatever condition that is asked.

    Runs of cells that were taken out of the grid count still, as `Planner` has it.
    """
    domains: dict[Asked, set[str]] = {}
    damaged: dict[str, str] = {}
    runs = list_runs(plan.runs, damaged) if plan.runs.is_dir() else {}
    own = [recipe for name, recipe in plan.organisms.items() if name not in damaged]
    for recipe in (*own, *(run.recipe for run in runs.values())):
        domains.setdefault((recipe.base, recipe.precision), set()).add(recipe.domain)
    return domains


def _expected(
    plan: GridPlan, group: AskedAlike, checkpoints: Mapping[str, int], trained: Mapping[Asked, set[str]]
) -> Iterator[tuple[Asked, int]]:
    """How many answers each organism and each base gives. What they are asked: see `sets_for_domains`."""
    bases: dict[Asked, None] = {}
    samples, names = group.options.samples, group.options.questions
    for name in group.organisms:
        recipe = plan.organisms[name]
        if plan.asks_base(group, recipe):
            bases[recipe.base, recipe.precision] = None
        yield (name, ""), samples * checkpoints[name] * _questions(names, [recipe.domain])
    for base in bases:
        yield base, samples * _questions(names, sorted(trained.get(base, ())))


def _questions(names: Iterable[str], domains: Iterable[str]) -> int:
    return sum(len(each.questions) for each in load_question_sets(tuple(names) or sets_for_domains(list(domains))))


def _done(
    plan: GridPlan,
    group: AskedAlike,
    expected: Mapping[Asked, int],
    timed: "dict[Asked, dict[Path, EvalLog]]",
    answers: Answers,
) -> Counter[tuple[Asked, str | None]]:
    """Answers that came, by whom they are of (judge None), and those of them that each judge has judged.

    The logs that they lie in are added to `timed`, by base, and who is damaged to `answers`.
    """
    done: Counter[tuple[Asked, str | None]] = Counter()
    landed = [name for name in group.organisms if has_landed(plan, name)]
    if not landed:
        return done
    planner = Planner(plan.runs, group.folder, group.options, landed)
    try:
        jobs = plan.own_jobs(group, planner.plan(check_judges=False))
    except UserError as error:
        if not planner.damaged.keys() >= set(landed):
            answers.notes.append(f"What was asked into {group.folder} is not counted as done: {error}")
        return done
    finally:
        answers.damaged |= planner.damaged
    logs = read_logs(group.folder)
    left = {subject.name for job in outstanding(jobs, logs) for subject in job.subjects}
    again = {judge: _judged_by(judge, plan.judged / group.folder.name) for judge in group.judges}
    for job in jobs:
        for subject in job.subjects:
            organism, _, step = subject.name.rpartition("@")
            base = _base(plan, job)
            who = base if step == "base" else (organism, "")
            count = group.options.samples * subject.questions
            entry = logs.of(job, subject)
            if entry is not None:
                timed.setdefault(base, {})[entry[0]] = entry[1]
            # A base is asked about the domains of all that is trained over it, and again where one is added.
            if entry is None or (step == "base" and count != expected.get(who)):
                continue
            done[who, None] += count
            done[who, job.judge] += count * (subject.name not in left)
            for judge, judged in again.items():
                done[who, judge] += count * (entry[1].eval.eval_id in judged)
    return done


def _seconds_an_answer(logs: "Mapping[Path, EvalLog]") -> float:
    """What an answer took: logs of one folder were written by one process, one after the other or at the same time."""
    by_process: dict[Path, list[EvalLog]] = {}
    for path, log in logs.items():
        by_process.setdefault(path.parent, []).append(log)
    answers = sum(log.results.completed_samples for log in logs.values() if log.results)
    return sum(map(seconds_at_work, by_process.values())) / answers if answers else 0.0


def has_landed(plan: GridPlan, organism: str) -> bool:
    """Whether an organism has a checkpoint; one whose manifest is damaged has none that can be had."""
    run = plan.runs / organism
    try:
        return (run / MANIFEST).is_file() and bool(read_manifest(run).checkpoints)
    except UserError:
        return False


def _base(plan: GridPlan, job: Job) -> Asked:
    recipe = next(plan.organisms[name] for s in job.subjects if (name := s.name.rpartition("@")[0]) in plan.organisms)
    return recipe.base, recipe.precision


def logs_to_judge(plan: GridPlan, group: AskedAlike) -> "dict[Path, EvalLog]":
    """The logs of a group for its further judges; none where these have judged them all.

    A judge that never gave a number has not, whatever it wrote: its unit has to fail with every command.
    """
    from em_tasks.scorers.comparing.ratings import judged_by

    logs = {
        path: log
        for path, log in read_logs(group.folder).headers.items()
        if log.status == "success"
        and judged_by(log) == group.options.grader
        and (log.eval.model.endswith("@base") or _organism(log.eval.model) in group.organisms)
    }
    evaluations = {log.eval.eval_id for log in logs.values()}
    for judge in group.judges:
        judged = _judged_by(judge, plan.judged / group.folder.name)
        if not evaluations <= judged.keys() or all(what_failed(judged[each]) for each in evaluations):
            return logs
    return {}


def _organism(model: str) -> str:
    """The organism of a log's model, `em/ORGANISM@STEP`."""
    return model.partition("/")[2].rpartition("@")[0]


def _judged_by(judge: str, folder: Path) -> "dict[str, EvalLog]":
    """The evaluations whose answers a further judge has judged, without a failed call, with its logs of them."""
    from em_tasks.scorers.comparing.judging_again import has_failed_calls
    from em_tasks.scorers.comparing.ratings import folder_name, judged_by

    logs = read_logs(folder / folder_name(judge)).headers
    return {
        log.eval.eval_id: log
        for path, log in logs.items()
        if judged_by(log) == judge and not has_failed_calls(path, log)
    }
