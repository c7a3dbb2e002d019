"""Hyper-parameter files of the public code, to the `search` block of a configuration and back.

The public code runs one algorithm with its own seed, bound, chance of mutation and tries at a crossover: here
`evolution-public`. It multiplies all counts by `evo_scale`, not the step, and never halves them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from longrope.errors import UserError
from longrope.rope.formats import HYPER_PARAMETERS
from longrope.settings.config import Config
from longrope.settings.search import SearchSettings

NAME = "hyper-parameters"
"""of this format on the command line"""
COUNTS = {
    "population_size": "population_size",
    "max_time_budget": "num_iterations",
    "mutation_numbers": "num_mutations",
    "crossover_size": "num_crossovers",
    "parents_size": "num_parents",
}
"""key of a file -> key of `search` in a configuration"""
CROSSOVER_TRIES = 20
"""of all files that the public code has; `search.public` has no other"""
MUTATION_PROBABILITY = 0.3
"""a constant in the public code"""
SUFFIXES = (".yaml", ".yml")


def content_of(path: Path) -> dict[str, Any] | None:
    """Return what a hyper-parameter file holds, None if it is another file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.keys() >= HYPER_PARAMETERS else None


def read(path: Path, content: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return the block of a configuration that a file comes to, and in words what it does not hold.

    Raises:
        UserError: if a number is not what a search can be set to.
    """
    scale = content["evo_scale"]
    if any(type(content[key]) not in (int, float) for key in HYPER_PARAMETERS) or not math.isfinite(
        scale
    ):
        raise UserError(
            f"{path}: {', '.join(sorted(HYPER_PARAMETERS))} must be numbers; repair it."
        )
    counts = {ours: int(scale * content[theirs]) for theirs, ours in COUNTS.items()}
    settings = {
        "algorithm": "evolution-public",
        "grid": content["list_step"],
        **counts,
        "halve_above": None,
    }
    _check(path, settings)
    return yaml.safe_dump({"search": settings}, sort_keys=False), [*_unsaid(content)]


def _check(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse what a configuration would refuse; the documents are its own."""
    documents = {"corpus": "any", "split": "validation"}
    try:
        SearchSettings.model_validate({**settings, "documents": documents})
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        raise UserError(f"{path}: {name} is {settings[name]}; {problem['msg'].lower()}.") from None


def _unsaid(content: Mapping[str, Any]) -> Iterator[str]:
    if content["evo_scale"] != 1:
        yield f"evo_scale ({content['evo_scale']:g}, which the counts are multiplied by)"
    tries = content.get("max_crossover_try", CROSSOVER_TRIES)
    if tries != CROSSOVER_TRIES:
        yield f"max_crossover_try ({tries}, here always {CROSSOVER_TRIES})"
    yield from (key for key in content if key not in HYPER_PARAMETERS | {"max_crossover_try"})


def written(config: Config, source: str) -> tuple[str, list[str]]:
    """Return the file that the search of a configuration comes to, and in words what it does not hold.

    Raises:
        UserError: naming `source`, if the search is none of those that have such numbers.
    """
    search = config.search
    if not search.algorithm.startswith("evolution"):
        raise UserError(
            f"{source}: search.algorithm is {search.algorithm}, which the public code has not; "
            "set evolution-public or evolution."
        )
    content = {
        "evo_scale": 1.0,
        **{theirs: getattr(search, ours) for theirs, ours in COUNTS.items()},
        "list_step": search.grid,
        "max_crossover_try": CROSSOVER_TRIES,
    }
    return json.dumps(content, indent=4) + "\n", [*_left_out(config)]


def _left_out(config: Config) -> Iterator[str]:
    """Yield the settings of a search that a file has no place for, as the configuration names them."""
    search = config.search
    held = {"grid", *COUNTS.values(), "halve_above"}
    held |= {"algorithm"} if search.algorithm == "evolution-public" else set()
    held |= (
        {"mutation_probability"} if search.mutation_probability == MUTATION_PROBABILITY else set()
    )
    for name in SearchSettings.model_fields:
        if name in search.model_fields_set - held:
            value = getattr(search, name)
            yield f"{name} ({value})" if isinstance(value, str | int | float) else name
    lengths = [step.target_length for step in config.extension]
    lengths += config.search_study.lengths if config.search_study else []
    if search.halve_above is not None and max(lengths) > search.halve_above:
        yield f"halve_above ({search.halve_above})"
    yield from _other_searches(config)


def _other_searches(config: Config) -> Iterator[str]:
    """Yield the keys of searches that are not the common one."""
    for index, step in enumerate(config.extension):
        if step.search:
            yield f"extension.{index}.search"
    if config.readjust and config.readjust.search:
        yield "readjust.search"
    if config.search_study:
        yield "search_study.algorithms"
