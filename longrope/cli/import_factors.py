"""`import`: the factors of a published model as a table."""

import argparse
import sys
from pathlib import Path

from longrope.errors import UserError
from longrope.rope.formats import read_table
from longrope.rope.stated import StatedFacts


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("import", help="write the factors of a published model as a table")
    verb.add_argument("model", type=Path, help="folder with config.json, or that file")
    verb.add_argument("--output", type=Path, required=True, help="file of factors to write")
    verb.add_argument("--original-length", type=int, metavar="TOKENS", help="where it is not said")
    verb.add_argument("--target-length", type=int, metavar="TOKENS", help="where it is not said")
    verb.set_defaults(verb=_import)


def _import(options: argparse.Namespace) -> None:
    if options.output.exists():
        raise UserError(f"{options.output} is there already; name another file or remove it.")
    stated = StatedFacts(
        original_length=options.original_length, target_length=options.target_length
    )
    table, notes = read_table(options.model, stated)
    for note in notes:
        print(f"longrope: warning: {note}.", file=sys.stderr)
    table.save(options.output)
    print(options.output)
