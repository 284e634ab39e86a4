"""`python -m em_tasks` is `em`; torchrun starts it so."""

from em_tasks.commands.cli import main

main()
