"""`pin`: keep the nodes of a plan through every `gc`."""

import argparse
import re
from pathlib import Path

from longrope import reading
from longrope.cli.common import add_overrides, add_store, planned, store_of
from longrope.errors import UserError
from longrope.plan.nodes import write_if_changed

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("pin", help="keep the nodes of a configuration through every gc")
    verb.add_argument("config", type=Path)
    verb.add_argument("name", help="of the pin, such as paper-v1")
    verb.add_argument("--replace", action="store_true", help="give the name to another plan")
    add_overrides(verb)
    add_store(verb)
    verb.set_defaults(verb=_pin)


def _pin(options: argparse.Namespace) -> None:
    if not _NAME.fullmatch(options.name):
        raise UserError(
            f"the name of a pin has letters, digits, '.', '_' and '-' only, got {options.name!r}."
        )
    store = store_of(options, options.config)
    plan = planned(options.config, store, options.overrides)
    path = store / "pins" / f"{options.name}.json"
    _require_free(path, plan.to_json(), replace=options.replace)
    write_if_changed(plan, path)
    done = sum(reading.is_file(store / node.key / "DONE") for node in plan)
    print(f"{path}: {done} of {len(plan.nodes)} nodes are done; gc keeps them all")


def _require_free(path: Path, text: str, *, replace: bool) -> None:
    if reading.is_file(path) and reading.read_text(path) != text and not replace:
        raise UserError(f"{path} pins another plan; choose another name, or give --replace.")
