"""`plan`, `verify` and `names`: what a configuration comes to, whether it is sound, where it is."""

import argparse
import os
import shutil
from collections.abc import Container
from pathlib import Path

from longrope.errors import UserError
from longrope.store import commit
from longrope.verbs.common import add_store, planned, read_plan


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    plan = verbs.add_parser("plan", help="print the nodes of a configuration and their state")
    plan.add_argument("config", type=Path)
    plan.set_defaults(verb=_plan)
    verify = verbs.add_parser("verify", help="check every finished node of a configuration")
    verify.add_argument("config", type=Path)
    verify.set_defaults(verb=_verify)
    names = verbs.add_parser("names", help="link the nodes of a plan file under human names")
    names.add_argument("plan", type=Path)
    names.add_argument(
        "--output", type=Path, required=True, help="copy of the plan, beside the links"
    )
    names.set_defaults(verb=_names)
    for verb in (plan, verify, names):
        add_store(verb)


def _plan(options: argparse.Namespace) -> None:
    for name, node in planned(options.config, options.store).nodes.items():
        state = "done" if (options.store / node.key / "DONE").is_file() else "missing"
        print(f"{state:8} {name:60} {node.key}")


def _names(options: argparse.Namespace) -> None:
    folder: Path = options.output.parent
    names = read_plan(options.plan)["names"]
    for name, key in names.items():
        link = folder / name
        link.parent.mkdir(parents=True, exist_ok=True)
        scratch = link.with_name(f".{link.name}.{os.getpid()}")
        scratch.symlink_to(os.path.relpath(options.store / key, link.parent))
        scratch.replace(link)
    _remove_other_links(folder, names)
    shutil.copyfile(options.plan, options.output)


def _remove_other_links(folder: Path, names: Container[str]) -> None:
    """Remove links of earlier plans; what they point to stays."""
    for link in [path for path in folder.glob("*/*") if path.is_symlink()]:
        if str(link.relative_to(folder)) not in names:
            link.unlink()


def _verify(options: argparse.Namespace) -> None:
    finished = [
        node
        for node in planned(options.config, options.store)
        if any((options.store / node.key / mark).is_file() for mark in ("DONE", "manifest.json"))
    ]
    damaged = {n.key: why for n in finished if (why := commit.problem(options.store / n.key))}
    for key, why in damaged.items():
        print(f"damaged  {key}: {why}")
    print(f"{len(finished) - len(damaged)} of {len(finished)} finished nodes are sound")
    if damaged:
        raise UserError(f"{len(damaged)} nodes are damaged; delete their DONE files and run again.")
