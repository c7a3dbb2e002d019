"""`names`: links to the nodes and tables of a plan under human names."""

import argparse
from collections.abc import Container
from pathlib import Path

from longrope.cli.common import STORE, add_store, read_plan
from longrope.reports import places
from longrope.store import commit
from longrope.store.atomic import write_text


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("names", help="link the nodes of a plan file under human names")
    verb.add_argument("plan", type=Path)
    verb.add_argument("--report", type=Path, help="folder of the plan's tables and figures")
    add_store(verb, STORE)
    verb.set_defaults(verb=_names)


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
            links = places.links(store, plan["experiment"], options.report.name)
            for link, place in links.items():
                places.link_to(place, link)
        write_text(folder / "plan.json", options.plan.read_text())


def _remove_other_links(folder: Path, names: Container[str]) -> None:
    """Remove links of earlier plans; what they point to stays."""
    for link in [path for path in folder.glob("*/*") if path.is_symlink()]:
        if str(link.relative_to(folder)) not in names:
            link.unlink()
