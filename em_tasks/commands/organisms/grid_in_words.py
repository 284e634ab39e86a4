"""What a grid needs, in lines for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from em_tasks.commands.terminal import counted
from em_tasks.trainers.bases.gaps import named

if TYPE_CHECKING:
    from em_tasks.grid.needs import Needs
    from em_tasks.grid.plan import GridPlan

WITH_WEIGHTS = ("emlocal", "hf", "vllm")
"""Providers of judges that take memory and time of this machine's devices."""


def in_bytes(count: float) -> str:
    """`340 MB`, `1.2 GB`, or `less than 1 MB`."""
    if 0 < count < 1e6:
        return "less than 1 MB"
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def _hours(hours: float) -> str:
    """`1,200`, `0.35`, or `less than 0.01`."""
    if 0 < hours < 0.01:
        return "less than 0.01"
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def needs_in_words(plan: "GridPlan", needs: "Needs", groups: Sequence[tuple[str, ...]]) -> list[str]:
    """What is said before the first unit."""
    from em_tasks.grid.questions import asked_by_domain

    runs, answers = needs.runs.values(), needs.answers
    checkpoints = sum(need.checkpoints for need in runs)
    known = sum(needs.runs[name].measured for name in needs.to_train)
    hours = "unknown for a GPU that is not here" if needs.hours is None else _hours(needs.hours)
    how = f"{known} of {counted(len(needs.to_train), 'run')} by runs alike that were measured here, the rest a guess"
    how = f" ({how})" if needs.hours is not None and needs.to_train else ""
    largest = max(need.memory for need in runs)
    memory = f"{largest / 2**30:.1f} GiB" if largest >= 2**30 / 10 else f"{largest / 2**20:.0f} MiB"
    left = [sum(name in needs.to_train for name in group) for group in groups]
    shared = ", ".join(str(count) for count in left if count > 1)
    leading = f"{', '.join(plan.leading)}: the first of the axis that judges a cell makes its rates, tables and figures"
    together = [f"  together      groups of {shared} organisms, a process each; --alone gives every organism its own"]
    return [
        f"{plan.file.name}: {counted(len(plan.cells), 'cell')} in {plan.out}",
        f"  organisms     {len(needs.runs)}, {len(needs.to_train)} of them to train, {checkpoints} checkpoints in all",
        f"  device hours  training {hours}{how}",
        f"                {_asking(needs)}",
        *(together if shared else ()),
        f"  memory        {memory} for the largest cell's training; asking{_local_judges(needs)} not counted",
        f"  disk          about {in_bytes(needs.disk)}: runs {in_bytes(sum(need.disk for need in runs))}, logs and "
        f"report at {needs.log_bytes:,.0f} bytes an answer",
        *(f"  questions     {line}" for line in asked_by_domain(plan)),
        f"  answers       {answers.count:,} of all checkpoints and {counted(answers.bases, 'base')}, conditions counted"
        + ("" if answers.to_come == answers.count else f"; {answers.to_come:,} to come"),
        *(f"  judge         {line}" for line in needs.judging),
        *([f"  leading judge {leading}"] if len(answers.judged) > 1 else []),
        *(("  to do         nothing: all is trained, asked and judged",) if needs.nothing_to_do else ()),
    ]


def _asking(needs: "Needs") -> str:
    """Device hours of asking as far as they were measured here, and what they leave out."""
    answers = needs.answers
    if not answers.to_come:
        return "asking none" + _judges_left_out(needs)
    measured = f"asking {_hours(answers.hours)} by the answers that came here, their first judge's time among it"
    if not answers.unmeasured:
        return measured + _judges_left_out(needs)
    names = named(answers.unmeasured)
    if not answers.hours:
        return f"asking and local judges are not counted: nothing of {names} was asked here yet"
    return f"{measured}, without {names}, of which nothing was asked here yet{_judges_left_out(needs)}"


def _judges_left_out(needs: "Needs") -> str:
    local = [judge for judge in _local(needs) if needs.answers.to_judge[judge]]
    return f"; verdicts by {named(local)} beside that are not counted" if local else ""


def _local_judges(needs: "Needs") -> str:
    local = _local(needs)
    return f" and judging by {named(local)}" if local else ""


def _local(needs: "Needs") -> list[str]:
    """Judges whose weights are held here."""
    return [judge for judge in needs.answers.judged if judge.partition("/")[0] in WITH_WEIGHTS]
