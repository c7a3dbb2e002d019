"""Conversion of the public code's hyper-parameter files to the `search` block of a configuration.

The public code runs one algorithm with its own seed, bound, chance of mutation and tries at a crossover: here
`evolution-public`. It multiplies all counts by `evo_scale`, not the step, and never halves them.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from longrope.errors import UserError, validated
from longrope.rope.formats import HYPER_PARAMETERS
from longrope.rope.stated import is_number
from longrope.settings.search import SearchSettings

COUNTS = {
    "population_size": "population_size",
    "max_time_budget": "num_iterations",
    "mutation_numbers": "num_mutations",
    "crossover_size": "num_crossovers",
    "parents_size": "num_parents",
}
"""key of a file -> key of `search` in a configuration"""
CROSSOVER_TRIES = 20
"""in all files of the public code; `evolution-public` knows no other number"""
SUFFIXES = (".yaml", ".yml")


def content_of(path: Path) -> dict[str, object] | None:
    """Return the content of a hyper-parameter file, None for another file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.keys() >= HYPER_PARAMETERS else None


def read(path: Path, content: Mapping[str, object]) -> tuple[str, list[str]]:
    """Convert a file to a block of a configuration; also return in words what the block does not hold.

    Raises:
        UserError: if a search cannot be set to a number.
    """
    numbers = {
        key: value for key, value in content.items() if is_number(value) and math.isfinite(value)
    }
    if not numbers.keys() >= HYPER_PARAMETERS:
        raise UserError(
            f"{path}: {', '.join(sorted(HYPER_PARAMETERS))} must be numbers; repair it."
        )
    counts = {ours: int(numbers["evo_scale"] * numbers[theirs]) for theirs, ours in COUNTS.items()}
    settings = {
        "algorithm": {"name": "evolution-public", **counts, "halve_above": None},
        "grid": numbers["list_step"],
    }
    _check(path, settings)
    return yaml.safe_dump({"search": settings}, sort_keys=False), [*_unsaid(content)]


def _check(path: Path, settings: Mapping[str, object]) -> None:
    """Refuse settings that a configuration would refuse; the documents are placeholders."""
    documents = {"corpus": "any", "split": "validation"}
    validated(SearchSettings, {**settings, "documents": documents}, source=str(path))


def _unsaid(content: Mapping[str, object]) -> Iterator[str]:
    if content["evo_scale"] != 1:
        yield f"evo_scale ({content['evo_scale']:g}, which the counts are multiplied by)"
    tries = content.get("max_crossover_try", CROSSOVER_TRIES)
    if tries != CROSSOVER_TRIES:
        yield f"max_crossover_try ({tries}, here always {CROSSOVER_TRIES})"
    yield from (key for key in content if key not in HYPER_PARAMETERS | {"max_crossover_try"})
