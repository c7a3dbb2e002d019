"""`verify`: check every finished node of a configuration for damage."""

import argparse
import shlex
from pathlib import Path

from longrope import reading
from longrope.cli.common import (
    add_overrides,
    add_store,
    other_last_run,
    planned,
    print_if_any,
    store_of,
)
from longrope.errors import UserError
from longrope.store import commit


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("verify", help="check every finished node of a configuration")
    verb.add_argument("config", type=Path)
    verb.add_argument(
        "--repair", action="store_true", help="set damaged nodes aside, to be made again"
    )
    add_overrides(verb)
    add_store(verb)
    verb.set_defaults(verb=_verify)


def _verify(options: argparse.Namespace) -> None:
    store = store_of(options, options.config)
    plan = planned(options.config, store, options.overrides)
    finished = [
        node
        for node in plan
        if any(reading.is_file(store / node.key / mark) for mark in ("DONE", "manifest.json"))
    ]
    damaged = {n.key: why for n in finished if (why := commit.problem(store / n.key))}
    for key, why in damaged.items():
        print(f"damaged  {key}: {why}")
    print(f"{len(finished) - len(damaged)} of {len(finished)} finished nodes are sound")
    print_if_any(other_last_run(plan, store))
    if damaged and not options.repair:
        again = ["longrope", "verify", str(options.config), *_given(options.overrides), "--repair"]
        raise UserError(f"{len(damaged)} nodes are damaged; `{shlex.join(again)}` sets them aside.")
    if damaged:
        _set_aside(store, list(damaged))
        print(f"{len(damaged)} nodes were moved to {store / '.trash'}; to make them again:")
        print(_making(options, [store / key / "DONE" for key in damaged]))


def _set_aside(store: Path, keys: list[str]) -> None:
    """Move nodes that are still damaged to the trash; a job that makes one anew is waited for."""
    for key in keys:
        with commit.claimed(store / ".work" / f"{key}.lock"):
            if commit.problem(store / key) is not None:
                commit.to_trash(store, store / key)


def _making(options: argparse.Namespace, marks: list[Path]) -> str:
    """Return the command that makes nodes again; Snakemake rebuilds none whose table exists."""
    # In this order: --configfile and --config take all words that follow them.
    chosen = ["--configfile", str(options.config), *_given(options.overrides)]
    return shlex.join(["snakemake", *chosen, "--cores", "1", *map(str, marks)])


def _given(overrides: list[str]) -> list[str]:
    return ["--config", *overrides] if overrides else []
