"""The command line: `run` is what the rules call, the other verbs are for people. No arithmetic here."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from longrope.cli import (
    accept,
    check,
    estimate,
    export,
    factors,
    gc,
    generate,
    import_factors,
    init,
    names,
    pin,
    plan,
    run,
    search,
    verify,
)
from longrope.cli.ranks import end_process
from longrope.errors import UserError, refusals_explained

VERBS = (
    init,
    check,
    run,
    search,
    plan,
    verify,
    names,
    estimate,
    factors,
    generate,
    export,
    import_factors,
    accept,
    gc,
    pin,
)
"""Modules of `longrope.cli` in the order of the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code: 0, 1 after one sentence on standard error, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        with refusals_explained():
            options.verb(options)
    except UserError as error:
        print(f"longrope: error: {error}", file=sys.stderr)
        return 1
    except FileNotFoundError as error:
        print(f"longrope: error: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("longrope: interrupted", file=sys.stderr)
        return 130
    return 0


def process() -> NoReturn:
    """Run one verb as all that this process does."""
    end_process(main)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="longrope", description="LongRoPE pipeline")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        verb.add(verbs)
    return parser
