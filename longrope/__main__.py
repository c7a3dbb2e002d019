"""`python -m longrope`."""

from longrope.cli import process

process()
