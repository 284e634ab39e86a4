"""`em demo`: the whole experiment, on toy models or on one small real one, with one command."""

from pathlib import Path

import click

from em_tasks.commands.paths import LocalPath


@click.command()
@click.option("--out", type=LocalPath(), default=Path("demo"), help="Folder for everything it makes.")
@click.option("--quick", is_flag=True, help="One organism instead of all.")
@click.option("--real", is_flag=True, help="A real model of 135M parameters and a local judge instead of toys.")
def demo(out: Path, quick: bool, real: bool) -> None:
    """Run the whole experiment: train, evaluate, judge, report; on the toy models unless --real is given."""
    if real:
        from em_tasks.real_demo import run_real_demo

        run_real_demo(out)
        return
    from em_tasks.demo import run_demo

    run_demo(out, quick=quick)
