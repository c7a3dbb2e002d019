"""Paths of the tables, figures and report of a plan, and the links to them.

`{store}/reports/{experiment}-{digest12}` holds `tables`, `figures` and `report.html`. The digest covers
the plan, the scripts and the functions of the products with all they import, the captions and the table of
hardware. Links by the name of the experiment lead to the results of the run that ended last; no rule
reads them.
"""

import os
from pathlib import Path

from longrope.errors import UserError
from longrope.plan.nodes import Plan
from longrope.reports import products
from longrope.store.atomic import written_whole
from longrope.store.code import CodeIndex
from longrope.store.identity import DIGEST_CHARACTERS, digest, file_digest

LINKED = ("tables", "figures")
"""Folders of a report that have a link by the name of the experiment."""


def report_digest(plan_digest: str, workflow: Path, hardware_table: Path) -> str:
    """Return the identity of all tables and figures of a plan.

    Args:
        plan_digest: of the plan whose nodes are tabulated.
        workflow: folder with `scripts` and the captions in `report`.
        hardware_table: YAML file of machines, which the cost table reads.
    """
    scripts = sorted((workflow / "scripts").glob("*.py"))
    made_of = {
        "plan": plan_digest,
        "scripts": CodeIndex().identity_of_scripts(scripts, products.modules()),
        "captions": {p.name: file_digest(p) for p in (workflow / "report").glob("*.rst")},
        "hardware": file_digest(hardware_table),
    }
    return digest(made_of)


def report_name(plan: Plan, workflow: Path, hardware_table: Path) -> str:
    """Return the name of the folder inside `reports`; arguments are those of `report_digest`."""
    identity = report_digest(plan.digest, workflow, hardware_table)
    return f"{plan.experiment}-{identity[:DIGEST_CHARACTERS]}"


def links(store: Path, experiment: str, report: str) -> dict[Path, Path]:
    """Return the links by the name of an experiment, each with the folder of a report it leads to."""
    return {store / part / experiment: store / "reports" / report / part for part in LINKED}


def links_lead_to(plan: Plan, store: Path, report: str) -> bool:
    """Return whether all links by the name of an experiment lead to the results of one plan."""
    named = store / "by-name" / plan.experiment / "plan.json"
    try:
        same_nodes = named.read_text() == plan.to_json()
    except FileNotFoundError:
        return False
    expected = links(store, plan.experiment, report).items()
    return same_nodes and all(link.is_symlink() and _leads(link, place) for link, place in expected)


def _leads(link: Path, place: Path) -> bool:
    return os.readlink(link) == os.path.relpath(place, link.parent)


def link_to(place: Path, link: Path) -> None:
    """Make a relative link, or lead an existing one elsewhere in one step.

    Raises:
        UserError: if something that is no link has its name.
    """
    if link.exists() and not link.is_symlink():
        raise UserError(
            f"{link} is no link but a folder or file of its own; move it away and run again."
        )
    link.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(link) as scratch:
        scratch.symlink_to(os.path.relpath(place, link.parent))
