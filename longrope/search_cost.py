"""How many documents a search scores, from its settings; pure. Upper bounds: nothing is scored twice."""

from collections.abc import Callable, Mapping
from typing import Any

CLOSED_FORMS = 3
SELECTED = 4
"""individuals of a selection at most"""
GRADIENT = 4
"""documents that a gradient counts as; `longrope.search.algorithm` says why"""

Settings = Mapping[str, Any]


def scored_documents(settings: Settings) -> int:
    """Return how many times a search scores a document; a gradient counts as 4 times."""
    name = settings["algorithm"]
    documents: int = settings["num_documents"]
    if name not in ON_FEW_DOCUMENTS:
        children: int = settings["num_mutations"] + settings["num_crossovers"]
        candidates: int = settings["population_size"] + settings["num_iterations"] * children
        return documents * candidates
    few: int = min(settings[name]["batch_documents"], documents)
    choices = len(settings["start_tokens"])
    once = CLOSED_FORMS + ON_FEW_DOCUMENTS[name](settings[name]) + choices * (choices > 1)
    return few * once + SELECTED * documents


def _cma(own: Settings) -> int:
    return int(own["num_generations"] * own["generation_size"])


def _gradient(own: Settings) -> int:
    return int(GRADIENT * own["num_steps"])


def _auto(own: Settings) -> int:
    """Return the ramp it starts from, and all generations."""
    ramps = own["ramp_num_generations"] * own["ramp_generation_size"]
    bends = own["knot_num_generations"] * own["knot_generation_size"]
    return int(1 + ramps + bends)


ON_FEW_DOCUMENTS: dict[str, Callable[[Settings], int]] = {
    "cma": _cma,
    "gradient": _gradient,
    "auto": _auto,
}
"""individuals of the algorithms that are scored on few documents"""
