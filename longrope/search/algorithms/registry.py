"""The search algorithms by name. To add one, write a class like `Algorithm` and a function in ALGORITHMS."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from longrope.rope.methods import yarn
from longrope.search.algorithms.algorithm import Algorithm
from longrope.search.algorithms.chain import Chain
from longrope.search.algorithms.cma import Auto, Budget, Cma
from longrope.search.algorithms.curves import RAMPS, Ramp, Vector, log_turns, ramp_point
from longrope.search.algorithms.evolution import Evolution, EvolutionSettings
from longrope.search.algorithms.gradient import Gradient
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.public import PublicEvolution, mixed_seed
from longrope.search.algorithms.racing import Raceable, Raced
from longrope.search.algorithms.space import Individual, Space

Settings = Mapping[str, Any]
Maker = Callable[[Problem, Settings], Raceable]
"""what is searched, settings of the search"""
SHARED_BY_RAMPS = ("start_documents", "start_token_choices", "batch_documents")
"""settings of `auto` that its ramps have in common with `gradient`"""


def make(problem: Problem, settings: Settings, num_documents: int | None = None) -> Algorithm:
    """Return the algorithm that the settings name, with its candidates racing if they say so.

    `num_documents` are there to score on, where those are not as many as the settings ask for.
    """
    if num_documents is not None:
        settings = {**settings, "num_documents": num_documents}
    start = settings.get("start")
    name = settings["algorithm"]
    algorithm = _after(start, problem, settings) if start else ALGORITHMS[name](problem, settings)
    error = settings.get("racing_error")
    return algorithm if error is None else Raced(algorithm, error, settings["seed"])


def _after(start: str, problem: Problem, settings: Settings) -> Raceable:
    """Return an algorithm that another one goes before."""

    def then(found: Individual) -> Raceable:
        begun = replace(problem, seeds={**problem.seeds, start: found})
        return ALGORITHMS[settings["algorithm"]](begun, settings)

    return Chain(ALGORITHMS[start](problem, settings), then)


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
    shared = {name: own[name] for name in ("num_knots", "batch_documents")}
    return Cma(problem.space, problem.seeds, budget=_budget(own, ""), **shared, **_common(settings))


def auto(problem: Problem, settings: Settings) -> Raceable:
    """Return CMA-ES on a ramp, then on knots that bend it."""
    own = dict(settings["auto"])
    budgets = {f"{part}_budget": _budget(own, f"{part}_") for part in ("ramp", "knot")}
    shared = {name: own[name] for name in ("num_knots", *SHARED_BY_RAMPS)}
    named: Settings = {**budgets, **shared, **_common(settings)}
    return Auto(*_ramps(problem), **named)


def gradient(problem: Problem, settings: Settings) -> Raceable:
    """Return descent along the gradient by a ramp's variables."""
    return Gradient(*_ramps(problem), **settings["gradient"], **_common(settings))


def _ramps(problem: Problem) -> tuple[Space, Mapping[str, Individual], Ramp, dict[str, Vector]]:
    """Return what is searched from the best of some ramps."""
    turns = log_turns(problem.geometry, np.array(problem.base), problem.source_length)
    starts = {f"ramp-{fast:g}-{slow:g}": ramp_point(fast, slow) for fast, slow in RAMPS}
    return problem.space, problem.seeds, Ramp(turns, problem.scale), starts


def _common(settings: Settings) -> dict[str, int]:
    return {name: settings[name] for name in ("num_documents", "seed")}


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
