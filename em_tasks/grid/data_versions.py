"""Training data of which the runs of one grid learnt different versions, in words for the dry run and the report."""

from collections.abc import Mapping
from pathlib import Path

from em_tasks.grid.plan import GridPlan
from em_tasks.trainers.bases.gaps import named
from em_tasks.trainers.run.manifest import Manifest


def versions_of_data(plan: GridPlan, runs: Mapping[str, Manifest], now: Mapping[str, tuple[str, ...]]) -> list[str]:
    """A sentence for every file that runs learnt otherwise than it is now, or than other runs did.

    Args:
        plan: The grid.
        runs: The runs that are there.
        now: SHA-256 of the files that each organism would learn from now, in its recipe's order.
    """
    learnt: dict[str, dict[str, list[str]]] = {}
    current: dict[str, str] = {}
    for name, run in runs.items():
        # A run's own paths may be those of the place that it was trained in.
        files = [source.path for source in plan.organisms[name].data]
        for file, record in zip(files, run.data, strict=False):
            names = learnt.setdefault(file, {}).setdefault(record.sha256, [])
            names.extend([name] if name not in names else [])
        current |= zip(files, now.get(name, ()), strict=False)
    notes = []
    for file, versions in learnt.items():
        old = [name for sha256, names in versions.items() if sha256 != current.get(file, sha256) for name in names]
        if old:
            notes.append(
                f"{Path(file).name} was changed since it was trained on: runs learnt other rows than it has "
                f"now ({named(old)}). They are kept and reported as they are; bring the old file back, or move these "
                f"runs and their logs out of {plan.out} to train them anew."
            )
        if len(versions) > 1:
            listed = "; ".join(f"{named(names)} learnt {sha256[:12]}" for sha256, names in versions.items())
            notes.append(
                f"Runs of this grid learnt {len(versions)} versions of {Path(file).name} (SHA-256: {listed}). What "
                "tells these organisms apart may be the data, and rates over them pool both."
            )
    return notes
