"""The search algorithms by name. To add one, write a class like `Algorithm` and a function in ALGORITHMS."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from longrope.methods import yarn
from longrope.search.algorithm import Algorithm
from longrope.search.cma import Auto, Budget, Cma
from longrope.search.curves import RAMPS, Ramp, log_turns, ramp_point
from longrope.search.driver import Problem
from longrope.search.evolution import Evolution, EvolutionSettings
from longrope.search.gradient import Gradient
from longrope.search.public import PublicEvolution, mixed_seed
from longrope.search.racing import Raceable, Raced
from longrope.search.space import Space

Settings = Mapping[str, Any]
Maker = Callable[[Problem, Settings], Raceable]
"""what is searched, settings of the search"""


def make(problem: Problem, settings: Settings) -> Algorithm:
    """Return the algorithm that the settings name, with its candidates racing if they say so."""
    algorithm = ALGORITHMS[settings["algorithm"]](problem, settings)
    error = settings.get("racing_error")
    return algorithm if error is None else Raced(algorithm, error, settings["seed"])


def evolution(problem: Problem, settings: Settings) -> Raceable:
    """Return the published algorithm."""
    chosen = _evolution_settings(settings)
    return Evolution(problem.space, dict(problem.seeds), chosen, settings["seed"])


def evolution_public(problem: Problem, settings: Settings) -> Raceable:
    """Return the algorithm of the public code: its own seed, bound and operators."""
    space, scale = problem.space, problem.scale
    bounded = Space(
        num_pairs=space.num_pairs, max_factor=1 + scale, grid=space.grid, start_tokens=(0,)
    )
    # YaRN mixes frequencies: its ramp is what its factors say of them.
    unscaled = [0.0] * space.num_pairs
    ramp = (1 - 1 / yarn(problem.geometry, scale)) / (1 - 1 / scale) if scale > 1 else unscaled
    start = mixed_seed(bounded, list(ramp), scale)
    return PublicEvolution(bounded, start, _evolution_settings(settings), settings["seed"])


def cma(problem: Problem, settings: Settings) -> Raceable:
    """Return CMA-ES on knots that bend the best closed form."""
    own = settings["cma"]
    return Cma(
        problem.space,
        problem.seeds,
        budget=_budget(own, ""),
        num_knots=own["num_knots"],
        batch_documents=own["batch_documents"],
        num_documents=settings["num_documents"],
        seed=settings["seed"],
    )


def auto(problem: Problem, settings: Settings) -> Raceable:
    """Return CMA-ES on a ramp, then on knots that bend it."""
    own = settings["auto"]
    turns = log_turns(problem.geometry, np.array(problem.base), problem.source_length)
    return Auto(
        problem.space,
        problem.seeds,
        Ramp(turns, problem.scale),
        {f"ramp-{fast:g}-{slow:g}": ramp_point(fast, slow) for fast, slow in RAMPS},
        ramp_budget=_budget(own, "ramp_"),
        knot_budget=_budget(own, "knot_"),
        num_knots=own["num_knots"],
        start_documents=own["start_documents"],
        start_token_choices=own["start_token_choices"],
        batch_documents=own["batch_documents"],
        num_documents=settings["num_documents"],
        seed=settings["seed"],
    )


def gradient(problem: Problem, settings: Settings) -> Raceable:
    """Return descent along the gradient."""
    return Gradient(
        problem.space,
        problem.seeds,
        num_documents=settings["num_documents"],
        seed=settings["seed"],
        **settings["gradient"],
    )


def _budget(settings: Settings, prefix: str) -> Budget:
    names = Budget.__dataclass_fields__
    return Budget(**{name: settings[prefix + name] for name in names})


def _evolution_settings(settings: Settings) -> EvolutionSettings:
    names = EvolutionSettings.__dataclass_fields__
    return EvolutionSettings(**{name: settings[name] for name in names})


ALGORITHMS: dict[str, Maker] = {
    "evolution": evolution,
    "evolution-public": evolution_public,
    "cma": cma,
    "gradient": gradient,
    "auto": auto,
}
