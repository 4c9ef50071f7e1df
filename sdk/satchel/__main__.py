"""`python -m satchel` is the `satchel` command."""

from .cli import main

main()
