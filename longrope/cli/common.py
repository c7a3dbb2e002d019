"""Options and plans that several verbs share."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longrope import reading
from longrope.errors import UserError
from longrope.plan.build import build
from longrope.plan.nodes import Plan
from longrope.settings import loading as configuration
from longrope.store.files import RawFiles

STORE = Path("results")
SCORING = ["longrope.models.scoring", "longrope.models.gradient"]
"""modules that remembered scores, and gradients, depend on"""


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the option for the store of results."""
    parser.add_argument("--store", type=Path, default=STORE, help="root of the results")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the option for settings that a run overrode."""
    parser.add_argument(
        "--config",
        "-C",
        dest="overrides",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings laid over the configuration, as given to snakemake --config",
    )


def planned(config: Path, store: Path, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan of a configuration; raises UserError for a user's mistake."""
    raw_files = RawFiles(store / ".raw-files.json")
    return build(configuration.load(config, overrides), Path.cwd(), raw_files)


def other_last_run(plan: Plan, store: Path) -> str:
    """Return a sentence on nodes of the experiment's last run that a plan does not have, or ""."""
    path = store / "plans" / f"{plan.experiment}.json"
    if not reading.is_file(path):
        return ""
    others = len(read_plan(path)["nodes"].keys() - plan.by_key.keys())
    if not others:
        return ""
    return (
        f"not counted: {others} nodes of the last run of {plan.experiment}, which had another plan, {path}; "
        "give the settings of that run with --config"
    )


def say_warnings(plan: Plan) -> None:
    """Print a plan's warnings."""
    for warning in plan.warnings:
        print(f"longrope: warning: {warning}", file=sys.stderr)


def read_plan(path: Path) -> dict[str, Any]:
    """Return the content of a plan file; raises UserError if it is none."""
    try:
        plan = json.loads(reading.read_text(path))
    except (*reading.ABSENT, ValueError):
        plan = None
    if not isinstance(plan, dict) or not {"nodes", "names"} <= plan.keys():
        raise UserError(f"{path} is missing or not a plan; run snakemake, which writes it.")
    return plan


def print_if_any(text: str) -> None:
    """Print a text unless it is empty."""
    if text:
        print(text)
