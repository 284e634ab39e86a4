"""What a grid needs, before its first unit: memory, device time, disk, answers, judge calls and their price."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from em_tasks.grid.answers import Answers, count_answers
from em_tasks.grid.data_versions import versions_of_data
from em_tasks.grid.plan import GridPlan
from em_tasks.grid.questions import odd_questions
from em_tasks.grid.reading.named_things import refuse_unknown_conditions, refuse_unusable_doses
from em_tasks.plugins.analysis.answers.grid_cells import NOT_OF_THE_GRID, LeftOut
from em_tasks.plugins.checkpoint_model.engines.choosing import parse_engine
from em_tasks.plugins.errors import UserError
from em_tasks.scorers.judging.cost import spent_on_judging
from em_tasks.scorers.judging.grader import build_judge
from em_tasks.sweep.estimate import STOPS_AT, judging_an_answer, judging_price
from em_tasks.sweep.plan import place_for_logs
from em_tasks.trainers.bases.gaps import named
from em_tasks.trainers.run.checkpoints import list_runs, refuse_visible_damage
from em_tasks.trainers.run.folder import existing_run, refuse_other_data
from em_tasks.trainers.run.manifest import Manifest

if TYPE_CHECKING:
    from inspect_ai.log import EvalLog

    from em_tasks.trainers.run.recipe import Recipe

COSTLY = {
    "base", "data", "lora", "epochs", "first_epoch_checkpoints", "batch_size", "accumulation", "max_length", "loss_on",
    "precision", "date_string",
}  # fmt: skip
"""The fields of a recipe that decide what a run needs; organisms alike in them are looked at once."""
LOG_BYTES = 6_000
"""Bytes of log that an answer takes where no log here says it: 6 GB a million answers (benchmarks/report.py)."""


@dataclass(frozen=True)
class RunNeed:
    """What one organism needs.

    Attributes:
        memory: Peak bytes on the device.
        seconds: Training time: measured where a run alike is finished here, else estimated for the device that is
            here; None for one that is not.
        measured: Whether it is measured.
        checkpoints: How many it will have.
        disk: Bytes of its checkpoints and of the state that it can be continued from.
        beside: Bytes that it takes in a process that trains others over the same base too.
        base: Bytes that the base takes of the memory.
    """

    memory: int
    seconds: float | None
    measured: bool
    checkpoints: int
    disk: int
    beside: int
    base: int


@dataclass
class Needs:
    """What a grid needs.

    Attributes:
        runs: Each organism's need, by its name.
        done: Names of those that are trained.
        left_out: Names of those that are damaged, which are neither trained nor asked.
        began: With whom each that is begun was trained in one process, itself among them, and from which step on.
        answers: Answers and verdicts, in all and those that came.
        log_bytes: Bytes that an answer takes in a log.
        judging: Calls and price of each judge, in words.
        dollars: What each judge is expected to cost an answer (US dollars); empty where nothing caps it.
        data: SHA-256 of the files that each organism learns from, in its recipe's order.
        notes: What is odd about the runs that are there, a sentence each.
    """

    runs: dict[str, RunNeed] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    left_out: set[str] = field(default_factory=set)
    began: dict[str, dict[str, int]] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)
    log_bytes: float = LOG_BYTES
    judging: list[str] = field(default_factory=list)
    dollars: dict[str, float] = field(default_factory=dict)
    data: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, name: str, why: str) -> None:
        """Leaves a damaged organism out: it is neither trained, alone or with others, nor asked."""
        if name not in self.left_out:
            self.left_out.add(name)
            self.notes.append(f"{name} is left out: {why}")
        self.done.discard(name)
        self.began.pop(name, None)

    @property
    def to_train(self) -> list[str]:
        """Organisms that are not trained, without those that are left out."""
        return [name for name in self.runs if name not in self.done | self.left_out]

    @property
    def hours(self) -> float | None:
        """Device hours of what is not trained; None where the device is not here and nothing alike was trained."""
        seconds = [self.runs[name].seconds for name in self.to_train]
        return None if None in seconds else sum(each for each in seconds if each is not None) / 3600

    @property
    def judging_dollars(self) -> float:
        """What all judges are expected to cost (US dollars), where that is capped; nothing for what is left out."""
        left_out = self.answers.left_out
        return sum(self.dollars[judge] * (count - left_out[judge]) for judge, count in self.answers.judged.items())

    @property
    def dollars_to_come(self) -> float:
        """What the verdicts to come are expected to cost (US dollars), where that is capped."""
        return sum(self.dollars[judge] * count for judge, count in self.answers.to_judge.items())

    @property
    def nothing_to_do(self) -> bool:
        """Whether all is trained, asked and judged."""
        return not (self.to_train or self.answers.to_come or self.answers.to_judge.total())

    @property
    def disk(self) -> int:
        """Bytes of all runs and logs; the report, tables and figures of answers, is about as large as the logs."""
        return sum(need.disk for need in self.runs.values()) + int(2 * self.log_bytes * self.answers.judged.total())


def grid_needs(plan: GridPlan, gpu: int | None, check_judges: bool = True) -> Needs:
    """Reads all that the grid reads, so that what is wrong is said before the first unit, and adds up what it needs.

    Args:
        plan: The grid.
        gpu: Bytes of the largest GPU that units may run on; None for the device that is here.
        check_judges: Whether a judge that cannot be had is an error; it is none where nobody will be asked.

    Raises:
        UserError: Data, base, question set, condition or judge is not there or not usable, a judge whose cost is capped
            has no known price, a cell needs more memory than the GPU has, or another recipe's run is in a cell's place;
            the message names the cell. Also where a run that is not finished was begun on other data.
    """
    place_for_logs(plan.logs)
    _refuse_no_names(plan)
    refuse_unusable_doses(plan)
    refuse_unknown_conditions(plan)
    needs, seen = Needs(), dict[str, tuple[RunNeed, tuple[str, ...]]]()
    trained: dict[str, Manifest] = {}
    damaged: dict[str, str] = {}
    runs = list_runs(plan.runs, damaged) if plan.runs.is_dir() else {}
    finished = {name: run for name, run in runs.items() if isinstance(run, Manifest) and run.finished}
    measured: dict[str, list[float]] = {}
    for run in finished.values():
        measured.setdefault(_key(run.recipe), []).append(run.seconds)
    for name, recipe in plan.organisms.items():
        try:
            before = None if name in damaged else existing_run(plan.runs / name, recipe)
            key = _key(recipe)
            if key not in seen:
                seen[key] = _need(recipe, gpu, measured.get(key, ()))
            need, data = seen[key]
            if before is not None and not before.finished:
                refuse_other_data(plan.runs / name, before, list(data))
        except UserError as error:
            raise UserError(f"The cell {name} cannot be trained. {error}") from None
        needs.runs[name], needs.data[name] = need, data
        if before is not None:
            try:
                refuse_visible_damage(plan.runs / name, before)
            except UserError as error:
                damaged[name] = str(error)
        if name in damaged:
            needs.leave_out(name, damaged[name])
        elif before is not None:
            needs.began[name] = before.together
            if before.finished:
                needs.done.add(name)
                trained[name] = before
    needs.notes += versions_of_data(plan, trained, needs.data)
    if others := sorted(set(runs) - set(plan.organisms)):
        needs.notes.append(
            f"{plan.runs} has runs of organisms that are not of this grid ({named(others)}). They stay, and the "
            "report leaves them out."
        )
    checkpoints = {name: need.checkpoints for name, need in needs.runs.items()}
    needs.answers = count_answers(plan, checkpoints, needs.left_out)
    for name, why in needs.answers.damaged.items():
        needs.leave_out(name, why)
    needs.notes += [*needs.answers.notes, *odd_questions(plan)]
    _add_judging(plan, needs, check_judges)
    from em_tasks.sweep.logs import read_logs

    logs, judged = (read_logs(folder).headers if folder.is_dir() else {} for folder in (plan.logs, plan.judged))
    needs.log_bytes = _measured_log_bytes(logs) or LOG_BYTES
    needs.notes += _not_of_the_grid(plan, [*logs.values(), *judged.values()])
    return needs


def _refuse_no_names(plan: GridPlan) -> None:
    """Refuses engines and judges that no name stands for, which nobody would notice before all is trained."""
    try:
        parse_engine(plan.file.evaluate.engine)
    except UserError as error:
        raise UserError(f"{plan.path}: evaluate.engine: {error}") from None
    if any(str(cell.coordinates.get("judge", "default")).strip() == "" for cell in plan.cells):
        raise UserError(
            f"{plan.path}: a value of the axis judge is empty. Give a judge as PROVIDER/MODEL, or null for the default."
        )


def _key(recipe: "Recipe") -> str:
    return recipe.model_dump_json(include=COSTLY)


def _need(recipe: "Recipe", gpu: int | None, measured: Sequence[float]) -> tuple[RunNeed, tuple[str, ...]]:
    """What an organism needs, and the SHA-256 of its files of data."""
    from em_tasks.trainers.data.prepare import prepare
    from em_tasks.trainers.estimate import estimate

    prepared = prepare(recipe)
    need = estimate(prepared, None if gpu is None else gpu / 2**30)
    seconds = sum(measured) / len(measured) if measured else need.seconds
    count = len(prepared.schedule.checkpoints)
    with tempfile.TemporaryDirectory() as folder:
        prepared.tokenizer.save_pretrained(folder)
        tokenizer = sum(path.stat().st_size for path in Path(folder).iterdir())
    # A state holds the adapter and two averages of it.
    disk = count * (4 * need.trainable + tokenizer) + 3 * 4 * need.trainable
    # Recorded passes take their memory twice, and those of several organisms are recorded only where there is room.
    beside = need.memory - need.base - (need.passing if need.batches.captured else 0)
    needed = RunNeed(need.memory, seconds, bool(measured), count, disk, beside, need.base)
    return needed, tuple(source.sha256 for source in prepared.sources)


def _add_judging(plan: GridPlan, needs: Needs, check_judges: bool) -> None:
    """What judging takes, in all and still."""
    if check_judges:
        for judge in needs.answers.judged:
            build_judge(judge)
    evaluate, rubrics = plan.file.evaluate, plan.groups[0].options.rubrics

    def price(judge: str, count: int) -> str:
        return judging_price(judge, count, evaluate.max_tokens, evaluate.judge_price, rubrics)

    for judge, count in needs.answers.judged.items():
        left = needs.answers.to_judge[judge]
        still = f"{left:,} verdicts, {price(judge, left).removeprefix(f'{judge}: ')}" if left else "none"
        needs.judging.append(price(judge, count) + ("" if left == count else f"; to come: {still}"))
    if evaluate.max_judge_cost is None:
        return
    for judge in needs.answers.judged:
        each = judging_an_answer(judge, evaluate.max_tokens, evaluate.judge_price, rubrics)
        if each.dollars is None:
            raise UserError(
                f"{plan.path}: the price of {judge} is not known, so max_judge_cost could not be kept. Give it as "
                "judge_price: INPUT,OUTPUT (US dollars per million tokens), or leave max_judge_cost out."
            )
        needs.dollars[judge] = each.dollars
    limit, spent = evaluate.max_judge_cost, spent_on_judging(plan.judge_cost)
    if needs.dollars_to_come > limit - spent:
        needs.judging.append(STOPS_AT.format(limit))
    needs.judging.append(f"at most ${limit:g} in all, of which ${spent:.4f} is spent")


def _not_of_the_grid(plan: GridPlan, logs: "Sequence[EvalLog]") -> list[str]:
    """A sentence for the conditions and judges that were taken out of the grid and have logs still."""
    out: dict[LeftOut, set[str]] = {}
    for log in logs:
        about, judge = log.eval.metadata or {}, (log.eval.model_roles or {}).get("grader")
        left_out = plan.reported.left_out(about.get("organism"), about.get("condition"), getattr(judge, "model", None))
        if left_out is not None and left_out[0] != "organisms":  # Those are named by their runs.
            out.setdefault(left_out[0], set()).add(left_out[1])
    return [
        f"{plan.out} has logs of {NOT_OF_THE_GRID[what]} ({named(sorted(names))}). They stay, and the report leaves "
        "them out."
        for what, names in out.items()
    ]


def _measured_log_bytes(logs: "Mapping[Path, EvalLog]") -> float | None:
    """Bytes an answer takes in the logs that are there."""
    known = [
        (path.stat().st_size, log.results.completed_samples)
        for path, log in logs.items()
        if log.results is not None and log.results.completed_samples
    ]
    return sum(size for size, _ in known) / sum(count for _, count in known) if known else None


def gpu_shares(needs: Needs, gpus: Mapping[str, int]) -> dict[str, float]:
    """The share of the smallest GPU that each organism's training takes; all of one where no GPU is known."""
    from em_tasks.trainers.estimate import CONTEXT

    smallest = min(gpus.values(), default=None)
    return {
        name: 1.0 if not smallest else min(1.0, (need.memory + CONTEXT) / smallest) for name, need in needs.runs.items()
    }
