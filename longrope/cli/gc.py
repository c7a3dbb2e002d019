"""`gc`: delete the results that no plan needs."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from longrope import reading
from longrope.cli.common import add_overrides, add_store, planned, read_plan, store_of
from longrope.cli.listing import size_text
from longrope.errors import UserError
from longrope.plan.nodes import KINDS, Plan
from longrope.store import gc
from longrope.store.identity import DIGEST_CHARACTERS


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("gc", help="list, and with --delete delete, results that nothing needs")
    verb.add_argument(
        "config",
        type=Path,
        nargs="*",
        help="configurations whose nodes stay; by default the last plan of every experiment",
    )
    verb.add_argument("--delete", action="store_true", help="really delete what is listed")
    add_overrides(verb)
    add_store(verb)
    verb.set_defaults(verb=_gc)


def _gc(options: argparse.Namespace) -> None:
    if options.overrides and not options.config:
        raise UserError("gc takes --config only with the configuration that it belongs to.")
    store = store_of(options, *options.config)
    held = gc.held(store)
    plans = [planned(config, store, options.overrides) for config in options.config]
    live = gc.Live.of([*_roots(plans, store), *gc.plans_of(store, held)], held)
    dead = gc.dead(store, KINDS, live)
    _tell_of_others(store, dead)
    for number, description in (
        (len(held), "nodes that jobs work on, and what those jobs read"),
        (len(gc.silent_memories(store)), "score memories that do not say what they are of"),
    ):
        if number:
            print(f"kept: {number} {description}")
    total = _print_dead(dead)
    if options.delete:
        gc.delete(store, dead)
        print(f"deleted {total}")
    else:
        print(f"dead: {total}; nothing was deleted, --delete does it")


def _print_dead(dead: gc.Dead) -> str:
    """Print every place with its size; return the sum in words."""
    sizes = {path: gc.size(path) for path in dead.paths}
    for path, size in sizes.items():
        print(f"{size_text(size):>9}  {path}")
    return f"{size_text(sum(sizes.values()))} in {len(sizes)} places"


def _roots(plans: Sequence[Plan], store: Path) -> list[str]:
    """Return the text of every plan whose nodes stay, and say which those are."""
    files = reading.entries(store / "plans", "*.json")
    last = {path.stem: path for path in files if not gc.is_job_plan(path)}
    pins = {path.stem: path for path in reading.entries(store / "pins", "*.json")}
    if not (plans or pins or last):
        raise UserError(
            f"{store} has no plan and no pin, so that nothing would be kept; "
            "name the configurations whose results stay."
        )
    named = [f"{plan.experiment} (plan {plan.digest[:DIGEST_CHARACTERS]})" for plan in plans]
    _tell("the nodes of", named or last)
    _tell("the pinned nodes of", pins)
    files = [*pins.values(), *([] if plans else last.values())]
    return [*(plan.to_json() for plan in plans), *map(_text, files)]


def _tell(heading: str, names: Iterable[str]) -> None:
    if names:
        print(f"kept: {heading} {', '.join(sorted(names))}")


def _tell_of_others(store: Path, dead: gc.Dead) -> None:
    """Name every plan that ran and has dead nodes: their experiment may be kept with another plan."""
    for path in reading.entries(store / "plans", "*.json"):
        text = gc.plan_text(path)
        lost = json.loads(text)["nodes"].keys() & dead.nodes.keys()
        if lost:
            which = "an earlier plan" if gc.is_job_plan(path) else "the last plan"
            experiment = json.loads(text).get("experiment", path.stem)
            name = experiment if gc.is_job_plan(path) else path.stem
            print(f"NOT kept: {which} of {name}, {path}: {len(lost)} nodes")


def _text(path: Path) -> str:
    read_plan(path)
    return reading.read_text(path)
