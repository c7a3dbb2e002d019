"""`python -m longrope`."""

from longrope.cli.main import process

process()
