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


def add_store(parser: argparse.ArgumentParser, default: Path | None = None) -> None:
    """Add the option for the store of results; without a default it is the configuration's."""
    source = "`results` of the configuration" if default is None else str(default)
    parser.add_argument(
        "--store", type=Path, default=default, help=f"root of the results; {source} if not given"
    )


def store_of(options: argparse.Namespace, *configs: Path) -> Path:
    """Return the store that was given, or else that of the configurations, or else STORE.

    Raises:
        UserError: if the configurations have several.
    """
    if options.store is not None:
        return Path(options.store)
    stores = {configuration.load(config, options.overrides).results for config in configs}
    if len(stores) > 1:
        names = " and ".join(sorted(stores))
        raise UserError(f"these configurations have their results in {names}; give one as --store.")
    return Path(stores.pop()) if stores else STORE


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


def planned(config: Path, store: Path | None = None, overrides: Sequence[str] = ()) -> Plan:
    """Return the plan of a configuration; raises UserError for a user's mistake.

    Hashes of raw files are remembered in the store, which is the configuration's unless given.
    """
    settings = configuration.load(config, overrides)
    raw_files = RawFiles((store or Path(settings.results)) / ".raw-files.json")
    return build(settings, Path.cwd(), raw_files)


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
