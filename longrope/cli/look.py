"""`plan`, `verify` and `names`: what a configuration comes to, whether it is sound, where it is."""

import argparse
import shlex
from collections.abc import Callable, Container
from pathlib import Path

from longrope import reading
from longrope.cli.common import (
    add_overrides,
    add_store,
    other_last_run,
    planned,
    read_plan,
    say_warnings,
)
from longrope.cli.listing import list_nodes, list_origins, time_text
from longrope.cost.estimate import estimate
from longrope.cost.shapes import Shape
from longrope.errors import UserError
from longrope.plan.nodes import Node, Plan, write_if_changed
from longrope.plan.status import survey
from longrope.reports import places
from longrope.settings.hardware import TABLE, read_machine
from longrope.store import commit
from longrope.store.atomic import write_text
from longrope.store.provenance import facts


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    plan = verbs.add_parser("plan", help="print the nodes of a configuration and their state")
    plan.add_argument("config", type=Path)
    plan.add_argument("--output", type=Path, help="write the plan there too, for `longrope run`")
    plan.add_argument("--hardware-table", type=Path, default=TABLE, help="YAML file of machines")
    plan.set_defaults(verb=_plan)
    verify = verbs.add_parser("verify", help="check every finished node of a configuration")
    verify.add_argument("config", type=Path)
    verify.add_argument(
        "--repair", action="store_true", help="set damaged nodes aside, to be made again"
    )
    verify.set_defaults(verb=_verify)
    names = verbs.add_parser("names", help="link the nodes of a plan file under human names")
    names.add_argument("plan", type=Path)
    names.add_argument("--report", type=Path, help="folder of the plan's tables and figures")
    names.set_defaults(verb=_names)
    for verb in (plan, verify):
        add_overrides(verb)
    for verb in (plan, verify, names):
        add_store(verb)


def _plan(options: argparse.Namespace) -> None:
    plan = planned(options.config, options.store, options.overrides)
    say_warnings(plan)
    if options.output is not None:
        write_if_changed(plan, options.output)
    standings = survey(plan, options.store)
    nodes = list_nodes(plan, standings, _estimates(plan, options.hardware_table))
    print("\n".join([*nodes, "", *list_origins(standings.values(), facts())]))
    _print_if_any(other_last_run(plan, options.store))


def _print_if_any(text: str) -> None:
    if text:
        print(text)


def _estimates(plan: Plan, table: Path) -> Callable[[Node], str]:
    """Return what to say of the time of a node that is not there: its estimate, if there is one."""
    shape, machine = Shape.of(plan.shape), read_machine(plan.hardware, table)

    def text(node: Node) -> str:
        seconds = estimate(node, shape, machine).seconds if shape else None
        return "" if seconds is None else f"~{time_text(seconds)}"

    return text


def _names(options: argparse.Namespace) -> None:
    store: Path = options.store
    plan = read_plan(options.plan)
    folder = store / "by-name" / plan["experiment"]
    # Of two runs that end together, one links all of its results and then the other does.
    with commit.claimed(store / ".work" / "named" / f"{plan['experiment']}.lock"):
        for name, key in plan["names"].items():
            places.link_to(store / key, folder / name)
        _remove_other_links(folder, plan["names"])
        if options.report is not None:
            wanted = places.links(store, plan["experiment"], options.report.name)
            for link, place in wanted.items():
                places.link_to(place, link)
        write_text(folder / "plan.json", options.plan.read_text())


def _remove_other_links(folder: Path, names: Container[str]) -> None:
    """Remove links of earlier plans; what they point to stays."""
    for link in [path for path in folder.glob("*/*") if path.is_symlink()]:
        if str(link.relative_to(folder)) not in names:
            link.unlink()


def _verify(options: argparse.Namespace) -> None:
    store: Path = options.store
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
    _print_if_any(other_last_run(plan, store))
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
    """Return the command that makes nodes again: Snakemake misses none whose tables are there."""
    # In this order: --configfile and --config take all words that follow them.
    chosen = ["--configfile", str(options.config), *_given(options.overrides)]
    return shlex.join(["snakemake", *chosen, "--cores", "1", *map(str, marks)])


def _given(overrides: list[str]) -> list[str]:
    return ["--config", *overrides] if overrides else []
