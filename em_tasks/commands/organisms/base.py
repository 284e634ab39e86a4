"""`em base`: base models that need no hub."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say

if TYPE_CHECKING:
    from em_tasks.trainers.bases.getting import Origin

KINDS = {
    "hub": "the publisher's bf16 weights",
    "gguf": "4-bit weights put back to bf16: near the publisher's, and not the same base",
}


@click.group()
def base() -> None:
    """Get a real base model without a hub: em base get smollm2-135m."""


@base.command()
@click.argument("name")
@click.option("--from", "origin", type=click.Choice(tuple(KINDS)), help="Where from; the hub first unless given.")
@click.option("--file", "path", type=LocalPath(dir_okay=False), help="Its GGUF file, if it is here.")
def get(name: str, origin: str | None, path: Path | None) -> None:
    """Get the base NAME (smollm2-135m, about 90 MB) and keep it in the cache folder as a recipe's base."""
    from em_tasks.trainers.bases.getting import get_base

    if path is not None and origin == "hub":
        raise click.UsageError("--file is the GGUF file: it does not go with --from hub.")
    kept = get_base(name, cast("Origin | None", origin), path)
    say(f"{name}: {KINDS[kept.kind]}, from {kept.source} (sha256 or revision {kept.sha256[:12]}), in {kept.folder}")
    say(f"Next: a recipe with base: {name}, or em demo --real")


@base.command("list")
def list_() -> None:
    """Say which bases are kept, and where."""
    from em_tasks.trainers.bases.kept import NAMED, bases_folder, kept_base

    for name in NAMED:
        kept = kept_base(name)
        say(f"{name}: {'not here; em base get ' + name if kept is None else kept.kind + ' in ' + kept.folder}")
    for folder in sorted(bases_folder().glob("gguf-*")) if bases_folder().is_dir() else ():
        say(f"{folder.name}: converted, in {folder}")
