"""`plan`: the nodes of a configuration and their states."""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from longrope.cli.common import (
    add_overrides,
    add_store,
    other_last_run,
    planned,
    print_if_any,
    say_warnings,
    store_of,
)
from longrope.cli.listing import list_nodes, list_origins, time_text
from longrope.cost.estimate import estimate
from longrope.cost.shapes import Shape
from longrope.plan.nodes import Node, Plan, write_if_changed
from longrope.plan.status import NodeStatus, survey
from longrope.settings.hardware import TABLE, read_machine
from longrope.store.provenance import facts


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("plan", help="print the nodes of a configuration and their state")
    verb.add_argument("config", type=Path)
    verb.add_argument("--output", type=Path, help="write the plan there too, for `longrope run`")
    verb.add_argument("--hardware-table", type=Path, default=TABLE, help="YAML file of machines")
    verb.add_argument("--json", action="store_true", help="print JSON, in base units")
    add_overrides(verb)
    add_store(verb)
    verb.set_defaults(verb=_plan)


def _plan(options: argparse.Namespace) -> None:
    store = store_of(options, options.config)
    plan = planned(options.config, store, options.overrides)
    say_warnings(plan)
    if options.output is not None:
        write_if_changed(plan, options.output)
    statuses = survey(plan, store)
    if options.json:
        print(json.dumps(_as_json(plan, statuses, options.hardware_table), indent=1))
        return
    nodes = list_nodes(plan, statuses, _estimates(plan, options.hardware_table))
    print("\n".join([*nodes, "", *list_origins(statuses.values(), facts())]))
    print_if_any(other_last_run(plan, store))


def _as_json(plan: Plan, statuses: Mapping[str, NodeStatus], table: Path) -> dict[str, Any]:
    """Return the nodes with their state, inputs, bytes and seconds; those of unfinished ones estimated."""
    estimated = _seconds(plan, table)
    nodes = [
        {
            "node": node.key,
            "state": status.state,
            "inputs": {role: source.key for role, source in node.inputs.items()},
            "bytes": status.size if status.state == "done" else None,
            "seconds": status.manifest.get("seconds") if status.state == "done" else None,
            "estimated_seconds": estimated(node),
            "differences": [f"{each.about} {each.text}" for each in status.differences],
        }
        for node in plan
        for status in [statuses[node.key]]
    ]
    return {"experiment": plan.experiment, "hardware": plan.hardware, "nodes": nodes}


def _seconds(plan: Plan, table: Path) -> Callable[[Node], float | None]:
    """Return the estimated seconds of computation of a node, if they can be estimated."""
    shape, machine = Shape.of(plan.shape), read_machine(plan.hardware, table)
    return lambda node: estimate(node, shape, machine).seconds if shape else None


def _estimates(plan: Plan, table: Path) -> Callable[[Node], str]:
    """Return the time column of unfinished nodes: their estimates, if any."""
    estimated = _seconds(plan, table)

    def text(node: Node) -> str:
        seconds = estimated(node)
        return "" if seconds is None else f"~{time_text(seconds)}"

    return text
