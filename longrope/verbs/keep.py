"""`gc` and `pin`: delete the results that no plan needs, and keep those of a plan for good."""

import argparse
import re
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from longrope.errors import UserError
from longrope.nodes import KINDS
from longrope.store import gc
from longrope.verbs.common import add_store, planned, read_plan
from longrope.verbs.listing import size_text

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    verb = verbs.add_parser("gc", help="list, and with --delete delete, results that nothing needs")
    verb.add_argument(
        "config",
        type=Path,
        nargs="*",
        help="configurations whose nodes stay; by default the last plan of every experiment",
    )
    verb.add_argument("--delete", action="store_true", help="really delete what is listed")
    verb.set_defaults(verb=_gc)
    pin = verbs.add_parser("pin", help="keep the nodes of a configuration through every gc")
    pin.add_argument("config", type=Path)
    pin.add_argument("name", help="of the pin, such as paper-v1")
    pin.add_argument("--replace", action="store_true", help="give the name to another plan")
    pin.set_defaults(verb=_pin)
    for each in (verb, pin):
        add_store(each)


# gc -----------------------------------------------------------------------------------------------


def _gc(options: argparse.Namespace) -> None:
    store: Path = options.store
    held = gc.held(store)
    live = gc.Live.of([*_roots(options.config, store), *gc.plans_of(store, held)], held)
    dead = gc.dead(store, KINDS, live)
    for number, kept in (
        (len(held), "nodes that jobs work on, and what those jobs read"),
        (len(gc.silent_memories(store)), "score memories that do not say what they are of"),
    ):
        if number:
            print(f"kept: {number} {kept}")
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


def _roots(configs: Iterable[Path], store: Path) -> list[str]:
    """Return the text of every plan whose nodes stay, and say which those are."""
    last = {p.stem: p for p in sorted((store / "plans").glob("*.json")) if not gc.is_job_plan(p)}
    pins = {path.stem: path for path in sorted((store / "pins").glob("*.json"))}
    plans = [planned(config, store) for config in configs]
    if not (plans or pins or last):
        raise UserError(
            f"{store} has no plan and no pin, so that nothing would be kept; "
            "name the configurations whose results stay."
        )
    _tell({plan.experiment for plan in plans}, last, pins)
    files = [*pins.values(), *([] if plans else last.values())]
    return [*(plan.to_json() for plan in plans), *map(_text, files)]


def _tell(named: set[str], last: Mapping[str, Path], pins: Collection[str]) -> None:
    """Print whose nodes stay, and of which experiments the last plan does not count."""
    kept = named or last.keys()
    for heading, names in (("kept: the nodes of", kept), ("kept: the pinned nodes of", pins)):
        if names:
            print(f"{heading} {', '.join(sorted(names))}")
    for name in sorted(last.keys() - kept):
        print(f"NOT kept: the last plan of {name}, {last[name]}")


def _text(path: Path) -> str:
    read_plan(path)
    return path.read_text()


# pin ----------------------------------------------------------------------------------------------


def _pin(options: argparse.Namespace) -> None:
    if not _NAME.fullmatch(options.name):
        raise UserError(
            f"the name of a pin has letters, digits, '.', '_' and '-' only, got {options.name!r}."
        )
    plan = planned(options.config, options.store)
    path: Path = options.store / "pins" / f"{options.name}.json"
    _require_free(path, plan.to_json(), replace=options.replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    scratch.write_text(plan.to_json())
    scratch.replace(path)
    done = sum((options.store / node.key / "DONE").is_file() for node in plan)
    print(f"{path}: {done} of {len(plan.nodes)} nodes are done; gc keeps them all")


def _require_free(path: Path, text: str, *, replace: bool) -> None:
    if path.is_file() and path.read_text() != text and not replace:
        raise UserError(f"{path} pins another plan; choose another name, or give --replace.")
