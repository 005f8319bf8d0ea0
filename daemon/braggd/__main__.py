"""`python -m braggd` is `braggd`."""

from braggd.cli import main

main()
