"""`python -m mambino`."""

from mambino.cli.app import main

main()
