"""How many documents a search scores, from its settings; pure. Upper bounds: nothing is scored twice."""

from collections.abc import Callable, Mapping
from typing import Any

CLOSED_FORMS = 3
FIRST_RAMPS = 3
"""`longrope.search.algorithms.curves.RAMPS`"""
SELECTED = 4
"""individuals of a selection at most"""
GRADIENT_COST = 4
"""scored documents that a gradient counts as: forward, forward again in every layer, and a backward
pass of twice a forward one; measured 3.4 on the embedded model"""

Settings = Mapping[str, Any]


def scored_documents(settings: Settings) -> int:
    """Return how many times a search scores a document; a gradient counts as 4 times."""
    if start := settings.get("start"):
        first = {**settings, "algorithm": start, "start": None}
        return scored_documents(first) + scored_documents({**settings, "start": None})
    name = settings["algorithm"]
    documents: int = settings["num_documents"]
    if name not in ON_FEW_DOCUMENTS:
        children: int = settings["num_mutations"] + settings["num_crossovers"]
        candidates: int = settings["population_size"] + settings["num_iterations"] * children
        return documents * candidates
    return ON_FEW_DOCUMENTS[name](settings) + SELECTED * documents


def _cma(settings: Settings) -> int:
    """Return closed forms, all generations, and start tokens."""
    own = settings["cma"]
    few: int = min(own["batch_documents"], settings["num_documents"])
    moves: int = own["num_generations"] * own["generation_size"]
    return few * (CLOSED_FORMS + moves + _start_tokens(len(settings["start_tokens"])))


def _auto(settings: Settings) -> int:
    own = settings["auto"]
    ramps: int = own["ramp_num_generations"] * own["ramp_generation_size"]
    bends: int = own["knot_num_generations"] * own["knot_generation_size"]
    return _ramping(settings, own, ramps + bends)


def _gradient(settings: Settings) -> int:
    own = settings["gradient"]
    return _ramping(settings, own, GRADIENT_COST * own["num_steps"])


def _ramping(settings: Settings, own: Settings, moves: int) -> int:
    """Return closed forms and ramps, moves that cost as many individuals, and start tokens."""
    documents = settings["num_documents"]
    choices = min(len(settings["start_tokens"]), own["start_token_choices"])
    first: int = min(own["start_documents"], documents) * (CLOSED_FORMS + FIRST_RAMPS)
    few: int = min(own["batch_documents"], documents)
    return first + few * (moves + _start_tokens(choices))


def _start_tokens(choices: int) -> int:
    return choices if choices > 1 else 0


ON_FEW_DOCUMENTS: dict[str, Callable[[Settings], int]] = {
    "cma": _cma,
    "gradient": _gradient,
    "auto": _auto,
}
"""documents that an algorithm scores before its selection"""
