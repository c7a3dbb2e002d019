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


def planned(config: Path) -> tuple[Plan, Path]:
    """Return the plan of a configuration and its store, from the folder in which Snakemake runs."""
    settings = configuration.load(config)
    store = Path(settings.results)
    return planning.build(settings, Path.cwd(), RawFiles(store / ".raw-files.json")), store


def report_folder(plan: Plan, store: Path) -> Path:
    """Return the folder of the tables, figures and report of a plan."""
    return store / "reports" / places.report_name(plan, arguments.WORKFLOW, arguments.HARDWARE)


if __name__ == "__main__":
    try:
        print(report_folder(*planned(arguments.parse().config)))
    except UserError as error:
        sys.exit(f"longrope: error: {error}")
