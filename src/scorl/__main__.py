"""`python -m scorl` is the command `scorl`."""

from scorl.cli import main

main()
