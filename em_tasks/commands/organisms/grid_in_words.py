"""What a grid needs, in lines for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from em_tasks.commands.terminal import counted

if TYPE_CHECKING:
    from em_tasks.grid.needs import Needs
    from em_tasks.grid.plan import GridPlan


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
    runs = needs.runs.values()
    checkpoints = sum(need.checkpoints for need in runs)
    known = sum(needs.runs[name].measured for name in needs.to_train)
    hours = "unknown for a GPU that is not here" if needs.hours is None else _hours(needs.hours)
    how = f"{known} of {counted(len(needs.to_train), 'run')} by runs alike that were measured here, the rest a guess"
    how = f" ({how})" if needs.hours is not None and needs.to_train else ""
    memory = max(need.memory for need in runs) / 2**30
    left = [sum(name not in needs.done for name in group) for group in groups]
    shared = ", ".join(str(count) for count in left if count > 1)
    leading = f"{', '.join(plan.leading)}: the first of the axis that judges a cell makes its rates, tables and figures"
    together = [f"  together      groups of {shared} organisms, a process each; --alone gives every organism its own"]
    return [
        f"{plan.file.name}: {counted(len(plan.cells), 'cell')} in {plan.out}",
        f"  organisms     {len(needs.runs)}, {len(needs.to_train)} of them to train, {checkpoints} checkpoints in all",
        f"  device hours  {hours}{how}",
        *(together if shared else ()),
        f"  memory        {memory:.1f} GiB for the largest cell's training",
        f"  disk          about {in_bytes(needs.disk)}: runs {in_bytes(sum(need.disk for need in runs))}, logs and "
        f"report at {needs.log_bytes:,.0f} bytes an answer",
        f"  answers       {needs.answers:,} of all checkpoints and {counted(needs.bases, 'base')}, conditions counted",
        *(f"  judge         {line}" for line in needs.judging),
        *([f"  leading judge {leading}"] if len(needs.judged) > 1 else []),
    ]
