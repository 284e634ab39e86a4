"""`em demo`: the whole experiment on the toy models, with one command."""

from pathlib import Path

import click


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), help="Folder for everything it makes.")
@click.option("--quick", is_flag=True, help="One organism instead of all.")
def demo(out: Path, quick: bool) -> None:
    """Run the whole experiment on the toy models: train, evaluate, judge, report."""
    from em_tasks.demo import run_demo

    run_demo(out, quick=quick)
