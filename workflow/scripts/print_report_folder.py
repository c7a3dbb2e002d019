"""Print the folder of the tables, figures and report of a configuration; computes and runs nothing."""

import sys
from pathlib import Path

import arguments

from longrope.settings import loading as configuration
from longrope.reports import places
from longrope.plan import build as planning
from longrope.errors import UserError
from longrope.plan.nodes import Plan
from longrope.store.files import RawFiles

STORE = Path("results")


def planned(config: Path) -> Plan:
    """Return the plan of a configuration, from the folder in which Snakemake runs."""
    files = RawFiles(STORE / ".raw-files.json")
    return planning.build(configuration.load(config), Path.cwd(), files)


def report_folder(plan: Plan) -> Path:
    """Return the folder of the tables, figures and report of a plan."""
    name = places.report_name(plan, arguments.WORKFLOW, arguments.HARDWARE)
    return STORE / "reports" / name


if __name__ == "__main__":
    try:
        print(report_folder(planned(arguments.parse().config)))
    except UserError as error:
        sys.exit(f"longrope: error: {error}")
