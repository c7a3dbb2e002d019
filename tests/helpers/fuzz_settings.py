"""Mutated configurations: each has to end in one sentence or in a plan with its cost, in little time.

Run as a program for many of one seed: `python tests/helpers/fuzz_settings.py --seed 0 --count 4000`.
"""

import argparse
import copy
import random
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import workflow_files
import yaml
from repository import ROOT

from longrope.cost.estimate import estimate, requirements
from longrope.cost.shapes import Shape
from longrope.errors import UserError
from longrope.plan import build as planning
from longrope.settings import loading
from longrope.settings.hardware import read_machine
from longrope.store.code import CodeIndex
from longrope.store.files import RawFiles

LIMIT = 5.0
"""seconds of computation that one configuration may take; others may load the machine"""
VALUES = [
    *(None, True, False, 0, 1, 2, 3, 7, 16, 128, 256, 1000, 65536, -1, -256),
    *(10**9, 2**31, 2**32, 2**53, 2**53 + 1, 10**30, 10**400, -(10**30)),
    *(0.0, 0.5, 1.0, 1.5, -0.5, 1e-9, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "auto",
        "1",
        "1e400",
        "nan",
        "yarn",
        "a/b",
        "../x",
        "x" * 300,
        "\0",
        "ü",
        "**",
        "[",
        "~",
    ),
    *(
        [],
        {},
        [[]],
        [{}],
        {"": {}},
        {"a": 1},
        [1],
        [1, 1],
        [256, 128],
        ["train.txt"],
        [""],
        [None],
        [True],
    ),
]
"""what replaces a value, besides other values of the same configuration"""
Outcome = Literal["refused", "planned", "traceback", "hang"]
Place = tuple[Any, Any]
"""a mapping or list, and a key of it"""


@dataclass(frozen=True)
class Result:
    """The end of one configuration."""

    outcome: Outcome
    text: str = ""
    """the sentence, or the traceback"""


def sources() -> dict[str, dict[str, Any]]:
    """Return the valid configurations by name: the shipped ones, and the small experiment."""
    shipped = sorted({*(ROOT / "config").glob("*.yaml")} - {ROOT / "config" / "hardware.yaml"})
    contents = {path.stem: yaml.safe_load(path.read_text()) for path in shipped}
    return {**contents, "small": workflow_files.settings()}


def mutated(content: Mapping[str, Any], generator: random.Random) -> dict[str, Any]:
    """Return a configuration with one to three changes."""
    changed = copy.deepcopy(dict(content))
    for _ in range(generator.choice([1, 1, 1, 2, 3])):
        places = list(_places(changed))
        if places:
            _change(generator.choice(places), places, generator)
    return changed


def _places(value: Any) -> Iterator[Place]:
    """Yield every place inside a configuration."""
    keys = (
        list(value)
        if isinstance(value, dict)
        else range(len(value))
        if isinstance(value, list)
        else ()
    )
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _change(place: Place, places: list[Place], generator: random.Random) -> None:
    """Change one place: delete, replace, swap, rename, duplicate or scale it."""
    holder, key = place
    action = generator.choice(
        ["delete", "replace", "replace", "replace", "swap", "rename", "scale", "move"]
    )
    value = holder[key]
    if action == "delete":
        del holder[key]
    elif action == "replace":
        holder[key] = copy.deepcopy(generator.choice(VALUES))
    elif action == "swap":
        other, other_key = generator.choice(places)
        holder[key] = copy.deepcopy(other[other_key])
    elif action == "scale" and isinstance(value, int | float):
        holder[key] = value * generator.choice([-1, 2, 10, 10**6, 0.5])
    elif isinstance(holder, list):
        holder.insert(generator.randrange(len(holder) + 1), copy.deepcopy(value))
    elif action == "rename":
        name = list(str(key))
        name[generator.randrange(len(name)) if name else 0 : 1] = generator.choice(["", "_", "xy"])
        holder["".join(name)] = holder.pop(key)
    else:
        target, _ = generator.choice(places)
        if isinstance(target, dict):
            target[key] = copy.deepcopy(value)


class _Late(BaseException):
    """A configuration took too long; no handler of exceptions may take it for its own."""


def attempt(content: dict[str, Any], root: Path, raw_files: RawFiles) -> Result:
    """Check, plan and estimate a configuration as the verbs do."""
    signal.signal(signal.SIGVTALRM, _late)
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
    try:
        return _ended(content, root, raw_files)
    except _Late:
        return Result("hang", traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _late(*_: object) -> None:
    raise _Late


def _ended(content: dict[str, Any], root: Path, raw_files: RawFiles) -> Result:
    try:
        return _planned(content, root, raw_files)
    except UserError as error:
        return _judged(str(error))
    except Exception:
        return Result("traceback", traceback.format_exc())


def _planned(content: dict[str, Any], root: Path, raw_files: RawFiles) -> Result:
    plan = planning.build(loading.parse(content, source="x.yaml"), root, raw_files)
    shape, machine = Shape.of(plan.shape), read_machine(plan.hardware)
    for node in plan:
        requirements(node, shape, machine)
        if shape is not None:
            estimate(node, shape, machine)
    return Result("planned", f"{len(plan.nodes)} nodes")


def _judged(sentence: str) -> Result:
    """Return a refusal, which has to be one line."""
    if "\n" in sentence or not sentence.endswith("."):
        return Result("traceback", f"no sentence: {sentence!r}")
    return Result("refused", sentence)


def results(seed: int, count: int, folder: Path) -> Iterator[tuple[str, dict[str, Any], Result]]:
    """Yield name, content and end of mutated configurations; the folder gets the files of the small one."""
    generator = random.Random(seed)
    originals = sources()
    workflow_files.write_experiment(folder)
    (folder / "resources").symlink_to(ROOT / "resources")
    raw_files, code = RawFiles(), CodeIndex()
    for _ in range(count):
        name = generator.choice([*originals, "small", "small"])
        content = mutated(originals[name], generator)
        # Parsing all of the code takes longer than all else, and is the same for every plan.
        with mock.patch.object(planning, "CodeIndex", return_value=code):
            yield name, content, attempt(content, folder, raw_files)


def main() -> None:
    """Print the ends of many configurations, and all that ended wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=4000)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for name, content, result in results(options.seed, options.count, Path(folder)):
            counts[result.outcome] += 1
            if result.outcome in ("traceback", "hang"):
                print(f"--- {name}: {content}\n{result.text}")
    print(", ".join(f"{counts[outcome]} {outcome}" for outcome in get_args(Outcome)))


if __name__ == "__main__":
    main()
