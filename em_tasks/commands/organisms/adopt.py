"""`em adopt`: organisms of adapters and whole models that others trained."""

from pathlib import Path
from typing import get_args

import click

from em_tasks.commands.numbers import Whole
from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say
from em_tasks.trainers.run.base_names import Precision


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("--domain", required=True, help="The training domain, such as medical; the question set that is asked.")
@click.option("--base", help="The base they were trained on, where their configuration does not name it.")
@click.option("--organism", help="The name to know them by; the folder's or repository's unless given.")
@click.option("--size", help="Label of the base's size, such as 8B; read from the base's name unless given.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Numbers the base is held in; bf16.")
@click.option("--control", is_flag=True, help="They were trained on good advice.")
@click.option("--seed", type=Whole(0, 2**32 - 1), help="Their training seed, where it is known.")
@click.option("--step", type=Whole(1, 2**53 - 1), help="The step of a single adapter, where its files do not say.")
@click.option("--runs", type=LocalPath(), default=Path("runs"), help="Folder of training runs.")
@click.option("--device", help="A torch device for the check; the first GPU, else the CPU.")
def adopt(
    adapters: tuple[str, ...],
    domain: str,
    base: str | None,
    organism: str | None,
    size: str | None,
    precision: Precision | None,
    control: bool,
    seed: int | None,
    step: int | None,
    runs: Path,
    device: str | None,
) -> None:
    """Make an organism of ADAPTERS or whole models that others trained: folders, folders of checkpoint-*, or hub ids.

    Several are the checkpoints of one organism. Nothing is written beside them. Whole models (fully fine-tuned, or
    merged) need --base, the model they were made from, to be compared with.
    """
    from em_tasks.plugins.checkpoint_model.adopting import adopt as adopt_adapters
    from em_tasks.plugins.checkpoint_model.adopting import base_of, find_adapters, name_of, settled_base, size_of
    from em_tasks.questions import no_questions_about
    from em_tasks.trainers.run.adoption import AdoptedOrganism
    from em_tasks.trainers.run.base_names import is_toy

    paths = find_adapters(adapters)
    base = settled_base(base) if base else base_of(paths)
    described = AdoptedOrganism(
        organism=organism or name_of(adapters[0]),
        base=base,
        size=size or size_of(base),
        domain=domain,
        control=control,
        precision=precision or ("fp32" if is_toy(base) else "bf16"),
        seed=seed,
    )
    run = runs / described.organism
    adopt_adapters(paths, described, run, step=step, device=device, report=say)
    if note := no_questions_about(domain):
        say(f"note: {note}", err=True)
    say(f"{described.organism}: {domain} on {base} ({described.precision}), {described.size}. Next: em sweep {runs}")
