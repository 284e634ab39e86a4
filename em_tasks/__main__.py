"""`python -m em_tasks` is `em`; torchrun starts it so."""

from em_tasks.cli import main

main()
