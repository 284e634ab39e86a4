"""`em serve`: checkpoints for every tool that speaks OpenAI's chat completions."""

import ipaddress
import socket
from pathlib import Path
from typing import get_args

import click

from em_tasks.commands.numbers import Whole
from em_tasks.commands.paths import LocalPath
from em_tasks.commands.terminal import say
from em_tasks.plugins.errors import UserError
from em_tasks.trainers.run.base_names import Precision

TOKEN = "EM_SERVE_TOKEN"


@click.command()
@click.argument("runs", type=LocalPath(), default=Path("runs"))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=Whole(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--token", envvar=TOKEN, help=f"What clients must send as API key; or the variable {TOKEN}.")
@click.option("--base", help="Serve on this base, knowingly, instead of the one that was trained on.")
@click.option("--precision", type=click.Choice(get_args(Precision)), help="Serve at this precision, knowingly.")
@click.option("--device", help="A torch device, such as cuda:1; the first GPU, else the CPU.")
def serve(
    runs: Path,
    host: str,
    port: int,
    token: str | None,
    base: str | None,
    precision: str | None,
    device: str | None,
) -> None:
    """Serve every checkpoint under RUNS as an OpenAI-compatible endpoint.

    Models are called organism@step and organism@base. Point a client at http://HOST:PORT/v1.
    """
    import uvicorn

    from em_tasks.plugins.server.app import Checkpoints, build_app
    from em_tasks.trainers.run.checkpoints import no_runs

    if token is None and not _is_loopback(host):
        raise UserError(
            f"{host} can be reached from other machines, so em serve wants a token there: set {TOKEN}, or give "
            "--token. Without one it listens on 127.0.0.1 alone."
        )
    given = {"base": base, "precision": precision, "device": device}
    checkpoints = Checkpoints(runs.resolve(), {key: value for key, value in given.items() if value is not None})
    names = checkpoints.names()
    if not names:
        raise no_runs(runs)
    # Bound here, so that a port that is taken is one plain sentence and a free one can be told.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listening:
        address = f"[{host}]" if ":" in host else host
        say(
            f"{len(names)} models at http://{address}:{listening.getsockname()[1]}/v1, such as {names[-1]}. "
            "Ctrl-C ends it."
        )
        app = build_app(checkpoints, token)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)).run(sockets=[listening])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
