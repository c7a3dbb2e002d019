"""What several verbs share: the store's place, a configuration's plan, a plan file."""

import argparse
import json
from pathlib import Path
from typing import Any

from longrope import configuration
from longrope.errors import UserError
from longrope.nodes import Plan
from longrope.plan import build
from longrope.store.files import RawFiles

STORE = Path("results")
SCORING = ["longrope.scoring", "longrope.search.backward"]
"""modules that remembered scores, and gradients, depend on"""


def add_store(parser: argparse.ArgumentParser) -> None:
    """Let a verb be told where the results are."""
    parser.add_argument("--store", type=Path, default=STORE, help="root of the results")


def planned(config: Path, store: Path) -> Plan:
    """Return the plan of a configuration; raises UserError for a user's mistake."""
    raw_files = RawFiles(store / ".raw-files.json")
    return build(configuration.load(config), Path.cwd(), raw_files)


def read_plan(path: Path) -> dict[str, Any]:
    """Return a plan file as it was written; raises UserError if it is none."""
    try:
        plan = json.loads(path.read_text())
    except (OSError, ValueError):
        plan = None
    if not isinstance(plan, dict) or not {"nodes", "names"} <= plan.keys():
        raise UserError(f"{path} is missing or not a plan; run snakemake, which writes it.")
    return plan
