"""`accept`: let code that alters no result stand for older code, so that nothing is computed again."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from longrope.cli.common import SCORING, add_overrides, add_store, planned, store_of
from longrope.errors import UserError, suggestion
from longrope.plan.history import code_name, only_code
from longrope.plan.nodes import KINDS, Plan
from longrope.plan.status import survey
from longrope.settings.search import MODULES
from longrope.store import accepted
from longrope.store.code import PACKAGE, CodeIndex


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("accept", help="let changed code stand for the code of finished nodes")
    verb.add_argument("kind", nargs="?", help=f"{', '.join(known_code())}")
    verb.add_argument("old", nargs="?", help="identity that finished nodes have, 16 hex digits")
    verb.add_argument(
        "--all", type=Path, metavar="CONFIG", help="accept whatever `longrope plan` finds"
    )
    add_overrides(verb)
    add_store(verb)
    verb.set_defaults(verb=_accept)


def known_code() -> dict[str, list[str]]:
    """Return the root modules of every code identity, by name.

    `scoring` is the code of no node but of remembered scores; their context.json tells its identity.
    """
    algorithms = [[f"longrope.search.algorithms.{name}"] for name in MODULES]
    choices: dict[str, list[list[str]]] = {
        "fetch": [[], ["longrope.data.multiple_choice_items"]],
        "search": algorithms,
        "readjust": algorithms,
        "evaluate": [[f"longrope.tasks.{path.stem}"] for path in _tasks()],
    }
    code = {
        code_name({"kind": kind, "modules": modules}): [f"longrope.stages.{kind}", *modules]
        for kind in KINDS
        for modules in choices.get(kind, [[]])
    }
    return code | {"scoring": SCORING}


def _tasks() -> list[Path]:
    return sorted((PACKAGE / "tasks").glob("[a-z]*.py"))


def _accept(options: argparse.Namespace) -> None:
    missing = [options.kind, options.old].count(None)
    if (missing, options.all is None) not in ((0, True), (2, False)):
        raise UserError("accept needs a KIND and an OLD code identity, or --all CONFIG.")
    if options.all is not None:
        _accept_all(options.all, options.overrides, store_of(options, options.all))
    else:
        _accept_code(options.kind, options.old)
    print(f"review and commit {PACKAGE / accepted.NAME}")


def _accept_code(name: str, old: str) -> None:
    modules = known_code().get(name)
    if modules is None:
        others = f"it is one of {', '.join(known_code())}."
        near = suggestion(name, known_code(), others)
        raise UserError(f"accept knows no code of {name!r}: {near}")
    if not accepted.IDENTITY.fullmatch(old):
        raise UserError(f"OLD should be a code identity of 16 hexadecimal digits, got {old!r}.")
    index = CodeIndex()
    computed, target = index.computed(modules), index.known_as(old)
    if target in (computed, index.known_as(computed)):
        raise UserError(f"the code of {name} already is {old}: there is nothing to accept.")
    entry = {"of": name, "stands_for": target}
    accepted.write(PACKAGE, accepted.read(PACKAGE) | {computed: entry})
    print(f"{name}: the code {computed} now stands for {target}")


def _accept_all(config: Path, overrides: Sequence[str], store: Path) -> None:
    """Accept the code of stale nodes until none differs by its code alone.

    Nodes downstream of a stale one differ as well; they are accepted in later rounds.
    """
    tried: set[str] = set()
    while changed := _changed(planned(config, store, overrides), store, tried):
        for name, old in changed.items():
            _accept_code(name, old)
        tried |= changed.keys()
    if not tried:
        raise UserError(f"no stale node of {config} differs by its code alone: nothing to accept.")


def _changed(plan: Plan, store: Path, tried: set[str]) -> dict[str, str]:
    """Return the older identities that were not tried yet, by name."""
    statuses = survey(plan, store)
    changed: dict[str, str] = {}
    for node in plan:
        status = statuses[node.key]
        if only_code(status.differences):
            changed.setdefault(code_name(node.to_json()), status.manifest["node"]["code"])
    return {name: old for name, old in changed.items() if name not in tried}
