"""The `em` command line. Each command imports what it needs when it runs, so that `em --help` is instant."""

import io
import os
import sys
from typing import NoReturn

import click

from em_tasks.collecting import collect_rarely
from em_tasks.commands.asking.demo import demo
from em_tasks.commands.asking.plan import plan
from em_tasks.commands.asking.questions import questions
from em_tasks.commands.asking.rubrics import rubrics
from em_tasks.commands.asking.serve import serve
from em_tasks.commands.asking.sweep import sweep
from em_tasks.commands.organisms.adopt import adopt
from em_tasks.commands.organisms.base import base
from em_tasks.commands.organisms.grid import grid
from em_tasks.commands.organisms.train import export, runs, train
from em_tasks.commands.plugin import plugin
from em_tasks.commands.results.importing import import_
from em_tasks.commands.results.judge import calibrate, judge, rescore
from em_tasks.commands.results.publish import publish
from em_tasks.commands.results.report import report
from em_tasks.commands.results.scan import scan
from em_tasks.commands.terminal import say
from em_tasks.plugins.errors import UserError
from em_tasks.quiet import quiet_libraries
from em_tasks.trainers.loop.stopping import Stopped

GO_ON = (train, sweep, grid, demo)
"""Commands that, given again, go on where they were interrupted."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="em-tasks")
def cli() -> None:
    """Train, evaluate and measure emergent misalignment: start with `em demo`."""


COMMANDS = (
    *(base, train, runs, adopt, export, plan, grid, sweep, report),
    *(import_, questions, rubrics, calibrate, judge, rescore, serve, scan, publish, plugin, demo),
)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Runs the command line; an error meant for the user is one paragraph and exit code 1."""
    collect_rarely()
    quiet_libraries()
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding has no letters for must not end a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        # Click turns every KeyboardInterrupt into an Abort.
        cause = error.__cause__ if isinstance(error, click.exceptions.Abort) else error
        if isinstance(cause, Stopped):
            say(str(cause), err=True)
            sys.exit(cause.exit_code)
        again = any(argument == command.name for command in GO_ON for argument in sys.argv[1:2])
        say("Interrupted. The same command goes on where this stopped." if again else "Interrupted.", err=True)
        sys.exit(130)
    except UserError as error:
        if os.environ.get("EM_TRACEBACK"):
            raise
        _refuse(error)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever reads has read enough (`em runs | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        # What the operating system refuses, with the file's name. Errors of Python code have no number and show it all.
        if error.errno is None or os.environ.get("EM_TRACEBACK"):
            raise
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    """Ends with an error's paragraph; what an API, a hub or a path quotes of a secret is taken out of it."""
    from em_tasks.scorers.judging.known_secrets import without_secrets

    say(f"em: {without_secrets(str(error))}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
