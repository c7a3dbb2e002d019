"""Command line of all scripts: the product, the files that are read and those that are written.

Scripts are started by a rule's `shell:`, not `script:`, because Snakemake does not quote its interpreter's
path there and fails in a folder whose name has a space.
"""

import argparse
import sys
from pathlib import Path
from types import TracebackType

from longrope.errors import UserError

from longrope.reports import products
from longrope.reports.places import report_digest
from longrope.reports.results import Results, read_plan, store_of
from longrope.store.identity import digest

WORKFLOW = Path(__file__).resolve().parents[1]
HARDWARE = WORKFLOW.parent / "config" / "hardware.yaml"
NAMES = ("config", "plan", "report", "csv", "markdown", "svg", "png", "html")


def parse() -> argparse.Namespace:
    """Return the paths given as `--plan PATH`, `--csv PATH` and so on, and the product; None where not given.

    From here on the script ends in one sentence on a mistake that its user can correct.
    """
    sys.excepthook = _print_sentence
    parser = argparse.ArgumentParser(description=__doc__)
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--product", choices=products.BY_NAME)
    paths = parser.parse_args()
    if paths.report is not None and not belongs(paths.report, paths.plan):
        raise UserError(
            f"the scripts behind {paths.report} changed since this run was planned; "
            "run snakemake again."
        )
    return paths


def results(paths: argparse.Namespace) -> Results:
    """Return the finished results of the plan that was given."""
    plan = read_plan(paths.plan)
    return Results(plan, store_of(paths.plan), Path(paths.report or "", "tables"), HARDWARE)


def belongs(report: Path, plan: Path) -> bool:
    """Return whether a report's folder is that of a plan file and of the code that runs now."""
    identity = report_digest(digest(plan.read_text()), WORKFLOW, HARDWARE)
    return identity.startswith(report.name.rpartition("-")[2])


def _print_sentence(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, UserError):
        print(f"longrope: error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
