"""A grid from where it stands to its end: what is missing is trained, asked as it lands, judged and reported."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from em_tasks.grid.answers import has_landed, logs_to_judge
from em_tasks.grid.budget import Budget
from em_tasks.grid.copying import Copying
from em_tasks.grid.data_versions import versions_of_data
from em_tasks.grid.executors.protocol import Ended, Executor
from em_tasks.grid.places import sign_left
from em_tasks.grid.plan import AskedAlike, GridPlan
from em_tasks.grid.units import (
    GPU_STEPS,
    NOW,
    WHOLE,
    Evaluate,
    JudgeAgain,
    Report,
    Train,
    TrainTogether,
    Unit,
    place_of,
)
from em_tasks.plugins.errors import UserError
from em_tasks.sweep.failures import what_failed
from em_tasks.sweep.logs import Logs, outstanding, read_logs
from em_tasks.sweep.plan import Job, Planner, Subject, shared_out
from em_tasks.trainers.run.manifest import MANIFEST, Manifest, read_manifest

LOOK_AGAIN = 10.0
"""Seconds between two looks for new checkpoints where no unit ended."""
SHARE = 20
"""A look takes one of so many parts of the driver's time at most: it reads every manifest and every log's head."""
MOST_NAMED = 5


@dataclass(frozen=True)
class Standing:
    """How far a grid is.

    Attributes:
        begun: Units handed over, by kind (`train`, `evaluate`, `judge`, `report`).
        ended: Those that have ended.
        news: The last word of a unit at work, by its kind, where one was heard.
        events: Units that began or ended since this was told last, a line each.
    """

    begun: Mapping[str, int]
    ended: Mapping[str, int]
    news: Mapping[str, str] = field(default_factory=dict)
    events: Sequence[str] = ()


@dataclass
class Driver:
    """Hands a grid's units to an executor.

    Attributes:
        plan: The grid.
        executor: Where units are done.
        shares: The share of a GPU that training takes, by organism.
        tell: Told how far it is, about once a second.
        threads: CPU threads of each unit.
        groups: Names of organisms that are trained together, those among them that are finished for company; whoever
            is in none is trained alone.
        budget: What judging may cost; None for no cap.
        copying: What copies to a store whatever is finished; None for no store.
        data: SHA-256 of the files that each organism learns from, as they were when its needs were read.
    """

    plan: GridPlan
    executor: Executor
    shares: Mapping[str, float]
    tell: Callable[[Standing], None]
    threads: int = 1
    groups: Sequence[tuple[str, ...]] = ()
    budget: Budget | None = None
    copying: Copying | None = None
    data: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    _running: list[Unit] = field(default_factory=list)
    _begun: Counter[str] = field(default_factory=Counter)
    _ended: Counter[str] = field(default_factory=Counter)
    # What went wrong last with each unit, by its name: evaluations come again under one name as more lands.
    _failed: dict[str, str] = field(default_factory=dict)
    _at_work: set[str] = field(default_factory=set)
    _damaged: set[str] = field(default_factory=set)
    _tried: set[tuple[str, ...]] = field(default_factory=set)
    _logs: dict[Path, Logs] = field(default_factory=dict)
    _planned: dict[AskedAlike, list[Job]] = field(default_factory=dict)
    _planners: list[tuple[AskedAlike, Planner]] = field(default_factory=list)
    _stages: list[Callable[[], Sequence[Unit]]] = field(default_factory=list)
    _sign: Path | None = None
    _looked: float = 0.0
    _cost: float = 0.0

    def run(self) -> None:
        """Does all that is missing.

        Raises:
            UserError: Units failed; each is named with its log. The others stand.
            UserError: The grid's folder vanished.
            Stopped: SIGINT or SIGTERM came.
        """
        self._planners = [(group, Planner(self.plan.runs, group.folder, group.options)) for group in self.plan.groups]
        self._stages = [self._rejudgings, self._reporting]
        missing = self._trainings()
        # The longest first, so that they end together; of equal ones, in the order of the file.
        missing.sort(key=lambda unit: -unit.gpu)
        with ExitStack() as held:
            self._sign = held.enter_context(sign_left(self.plan.out))
            if self.budget:
                held.enter_context(self.budget.alone())
            if self.copying:
                held.enter_context(self.copying)
            self.executor.run(self._handed_over(missing), self.plan.units, self._more)
        failures = [*self._failed.values(), *(self.copying.failures if self.copying else [])]
        if failures:
            more = len(failures) - MOST_NAMED
            raise UserError(
                "Some units did not succeed; the others stand. Give the same command again to go on, unless a line "
                "below says otherwise. "
                + "; ".join(failures[:MOST_NAMED])
                + (f"; and {more} more." if more > 0 else "." * (not failures[-1].endswith(".")))
            )

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not self._begun

    def _trainings(self) -> list[Train | TrainTogether]:
        """Units for what is not trained."""
        left = {name: recipe for name, recipe in self.plan.organisms.items() if not self._is_trained(name)}
        units: list[Train | TrainTogether] = []
        for company in self.groups:
            group = [name for name in company if name not in self._damaged]
            if len(group) > 1 and any(name in left for name in group):
                recipes = tuple(self.plan.organisms[name] for name in group)
                units.append(TrainTogether(recipes, self.plan.runs, self.threads, data=self.data))
                left = {name: recipe for name, recipe in left.items() if name not in group}
        # Several share a GPU only where there are more of them than GPUs: else one would be filled and others idle.
        each = -(-(len(units) + len(left)) // self.executor.width)
        least = GPU_STEPS // max(1, each) / GPU_STEPS
        shares = {name: max(least, self.shares.get(name, WHOLE)) for name in left}
        alone = (Train(left[name], self.plan.runs, shares[name], self.threads, self.data.get(name)) for name in left)
        return [*units, *alone]

    def _manifest(self, name: str) -> Manifest | None:
        """An organism's manifest; None where there is none yet, or a damaged one, which leaves the organism out."""
        if not (self.plan.runs / name / MANIFEST).is_file():
            return None
        try:
            return read_manifest(self.plan.runs / name)
        except UserError as error:
            self._leave_out(name, str(error))
            return None

    def _leave_out(self, name: str, why: str) -> None:
        self._damaged.add(name)
        self._failed[f"the organism {name}"] = f"{name} was left out: {why.rstrip('.')}"

    def _is_trained(self, name: str) -> bool:
        manifest = self._manifest(name)
        if manifest is None:
            return name in self._damaged
        return manifest.finished and manifest.recipe.sha256 == self.plan.organisms[name].sha256

    def _handed_over(self, units: Sequence[Unit]) -> list[Unit]:
        for unit in units:  # What a killed command left is no word of this one's.
            place_of(unit, self.plan.units, NOW).unlink(missing_ok=True)
        self._running += units
        self._begun.update(map(_kind, units))
        return list(units)

    def _more(self, ended: Sequence[Ended]) -> Sequence[Unit] | None:
        """What comes next, now that these have ended: evaluations as checkpoints land, then the judges, the report."""
        if self._sign is not None and not self._sign.is_file():
            raise UserError(
                f"{self.plan.out} vanished while the grid was worked on: it was removed, moved or unmounted, and its "
                "runs and logs with it. Bring it back and give the same command again to go on; without it the command "
                "begins anew."
            )
        for each in ended:
            self._running.remove(each.unit)
            self._ended[_kind(each.unit)] += 1
            if self.budget and (ledger := _ledger(each.unit)):
                self.budget.ended(ledger)
            if each.failure is not None:
                named = each.failure.startswith(each.unit.name)  # What an executor says of a dead process does not.
                self._failed[each.unit.name] = each.failure if named else f"{each.unit.name}: {each.failure}"
        if ended and self.copying:
            self.copying.soon()
        words = self._words()
        events = [*self._new_among(words), *(self._end(each) for each in ended)]
        self.tell(Standing(dict(self._begun), dict(self._ended), _news(words), events))
        waited = time.monotonic() - self._looked
        if self._running and waited < max(SHARE * self._cost, 0 if ended else LOOK_AGAIN):
            return []
        fresh = self._evaluations()
        if fresh or self._running:
            return self._handed_over(fresh)
        while self._stages:
            if units := self._stages.pop(0)():
                return self._handed_over(units)
        return None

    def _words(self) -> dict[str, str]:
        """The last word of every unit at work, by its name; places below the grid's folder are named from there."""
        words = {}
        for unit in self._running:
            with suppress(OSError):
                word = place_of(unit, self.plan.units, NOW).read_text(encoding="utf-8").strip()
                words[unit.name] = word.replace(f"{self.plan.out}/", "")
        return words

    def _new_among(self, words: Mapping[str, str]) -> list[str]:
        new = [name for name in words if name not in self._at_work]
        self._at_work.update(new)
        return [f"{name}: begun" for name in new]

    def _end(self, ended: Ended) -> str:
        """What is said of a unit's end. It may come again under its name, and begins again then."""
        self._at_work.discard(ended.unit.name)
        how = "done" if ended.failure is None else f"failed: {ended.failure.removeprefix(f'{ended.unit.name}: ')}"
        return f"{ended.unit.name}: {how}"

    def _evaluations(self) -> list[Evaluate]:
        """Units for what has landed, has no log and is not at work; each checkpoint is tried once a command."""
        began = time.monotonic()
        busy = {unit.job.folder for unit in self._running if isinstance(unit, Evaluate)}
        training = any(isinstance(unit, Train | TrainTogether) for unit in self._running)
        fresh: list[Job] = []
        done = 0.0
        # While organisms are still trained, little has landed of each base, and loading it for each part would cost.
        processes = 1 if training else self.executor.width // max(1, len(self._planners))
        for group, planner in list(self._planners):
            planner.organisms = [name for name in group.organisms if has_landed(self.plan, name)]
            if not planner.organisms:
                continue
            try:
                planned = self.plan.own_jobs(group, planner.plan())
            except UserError as error:
                for name, why in planner.damaged.items():
                    self._leave_out(name, why)
                if planner.damaged.keys() >= set(planner.organisms):
                    continue
                # What is wrong with one organism's files must not end the units at work.
                self._failed[f"evaluate into {group.folder}"] = f"evaluate into {group.folder}: {error}"
                self._planners.remove((group, planner))
                continue
            jobs: list[Job] = []
            self._planned[group] = planned
            for name, why in planner.damaged.items():
                self._leave_out(name, why)
            self._logs[group.folder] = read_logs(group.folder, self._logs.get(group.folder))
            left = outstanding(planned, self._logs[group.folder])
            if self.budget:
                done += sum(self._expected(job) for job in planned) - sum(self._expected(job) for job in left)
            for job in left:
                untried = [s for s in job.subjects if _evaluation(job, s) not in self._tried]
                if untried and job.folder not in busy:
                    jobs.append(replace(job, subjects=tuple(untried)))
                    busy.add(job.folder)
            fresh += shared_out(jobs, processes, self.threads)
        self._tried.update(_evaluation(job, s) for job in fresh for s in job.subjects)
        if self.budget:
            shares = self.budget.share([self._expected(job) for job in fresh], done)
            fresh = [
                replace(
                    job,
                    options=replace(
                        job.options,
                        max_judge_cost=share.dollars,
                        judge_ledger=share.ledger,
                        judge_cap=self.budget.limit,
                    ),
                )
                for job, share in zip(fresh, shares, strict=True)
            ]
        self._looked = time.monotonic()
        self._cost = self._looked - began
        return [Evaluate(job) for job in fresh]

    def _expected(self, job: Job) -> float:
        return self.budget.expected((job.judge,), job.answers) if self.budget else 0.0

    def _rejudgings(self) -> list[JudgeAgain]:
        """Units for the judges beside the first, over the logs of those that they are to judge."""
        self._add_silent_judges()
        units: list[JudgeAgain] = []
        expected: list[float] = []
        for group in self.plan.groups:
            if not group.judges:
                continue
            logs = {
                path: log.results.completed_samples if log.results else 0
                for path, log in logs_to_judge(self.plan, group).items()
            }
            if logs:
                out = self.plan.judged / group.folder.name
                price = group.options.judge_price
                units.append(JudgeAgain(tuple(logs), group.judges, out, price, threads=self.threads))
                expected.append(self.budget.expected(group.judges, sum(logs.values())) if self.budget else 0.0)
        if self.budget is None:
            return units
        # They are the last to judge, so all that is left is theirs.
        shares = self.budget.share(expected, done=self.budget.total)
        return [
            replace(unit, max_cost=share.dollars, ledger=share.ledger, cap=self.budget.limit)
            for unit, share in zip(units, shares, strict=True)
        ]

    def _add_silent_judges(self) -> None:
        """Finished evaluations whose judge failed, or gave no number, fail with every command, not the first alone."""
        for group, _ in self._planners:
            logs = self._logs.get(group.folder, Logs())
            entries = [logs.of(job, subject) for job in self._planned.get(group, ()) for subject in job.subjects]
            wrong = [what for entry in entries if entry is not None and (what := what_failed(entry[1]))]
            told = " ".join(self._failed.values())
            if new := [what for what in wrong if what.partition(": ")[0] not in told]:
                more = f"; and so in {len(new) - 1} more of its logs" if len(new) > 1 else ""
                unit = f"evaluate into {group.folder}"  # Several judges have a group each there.
                self._failed[f"{unit} for {group.options.grader}"] = f"{unit}: {new[0]}{more}"

    def _reporting(self) -> list[Report]:
        if not any(self.plan.logs.rglob("*.eval")):
            return []
        logs = (self.plan.logs, *([self.plan.judged] if any(self.plan.judged.rglob("*.eval")) else []))
        notes = []
        if self._failed:
            names = ", ".join(list(self._failed)[:MOST_NAMED]) + (", ..." if len(self._failed) > MOST_NAMED else "")
            notes = [f"The grid is not done, and its cells are not all here. What failed: {names}."]
        landed = [name for name in self.plan.organisms if has_landed(self.plan, name)]
        runs = {name: read_manifest(self.plan.runs / name) for name in landed}
        notes += versions_of_data(self.plan, runs, self.data)
        # Cells that were taken out or renamed have their runs and logs still, and would count beside the new ones.
        cells = self.plan.reported
        report = Report(logs, self.plan.report, self.plan.study, tuple(notes), cells, threads=self.threads)
        return [] if report.is_written else [report]


def _news(words: Mapping[str, str]) -> dict[str, str]:
    """One word of each kind of unit, the kind's own name left out."""
    return {kind: f"{rest}: {word}" for name, word in words.items() for kind, _, rest in [name.partition(" ")]}


def _evaluation(job: Job, subject: Subject) -> tuple[str, ...]:
    """What tells an evaluation from others. A base is asked anew where a domain was added to those trained over it."""
    return str(job.folder), subject.name, subject.sha256, subject.task_version, job.judge


def _ledger(unit: Unit) -> Path | None:
    """Where what a unit pays its judges is kept, if it is."""
    if isinstance(unit, Evaluate):
        return unit.job.options.judge_ledger
    return unit.ledger if isinstance(unit, JudgeAgain) else None


def _kind(unit: Unit) -> str:
    return unit.name.partition(" ")[0]
