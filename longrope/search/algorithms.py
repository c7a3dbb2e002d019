"""The search algorithms by name. To add one, write a class like `Algorithm` and a function in ALGORITHMS."""

from collections.abc import Callable, Mapping
from typing import Any

from longrope.methods import Geometry, yarn
from longrope.search.algorithm import Algorithm
from longrope.search.cma import Cma, CmaSettings
from longrope.search.evolution import Evolution, EvolutionSettings
from longrope.search.public import PublicEvolution, mixed_seed
from longrope.search.space import Individual, Space

Seeds = Mapping[str, Individual]
Settings = Mapping[str, Any]
Maker = Callable[[Space, Geometry, float, Seeds, Settings], Algorithm]
"""space, geometry, scale of the search, seeds by name, settings of the search"""


def evolution(
    space: Space, geometry: Geometry, scale: float, seeds: Seeds, settings: Settings
) -> Algorithm:
    """Return the published algorithm."""
    del geometry, scale
    return Evolution(space, dict(seeds), _evolution_settings(settings), settings["seed"])


def evolution_public(
    space: Space, geometry: Geometry, scale: float, seeds: Seeds, settings: Settings
) -> Algorithm:
    """Return the algorithm of the public code: its own seed, bound and operators."""
    del seeds
    bounded = Space(
        num_pairs=space.num_pairs, max_factor=1 + scale, grid=space.grid, start_tokens=(0,)
    )
    # YaRN mixes frequencies: its ramp is what its factors say of them.
    ramp = (
        (1 - 1 / yarn(geometry, scale)) / (1 - 1 / scale) if scale > 1 else [0.0] * space.num_pairs
    )
    start = mixed_seed(bounded, list(ramp), scale)
    return PublicEvolution(bounded, start, _evolution_settings(settings), settings["seed"])


def cma(
    space: Space, geometry: Geometry, scale: float, seeds: Seeds, settings: Settings
) -> Algorithm:
    """Return CMA-ES on knots and few documents."""
    del geometry, scale
    chosen = CmaSettings(num_documents=settings["num_documents"], **settings["cma"])
    return Cma(space, seeds, chosen, settings["seed"])


def _evolution_settings(settings: Settings) -> EvolutionSettings:
    names = EvolutionSettings.__dataclass_fields__
    return EvolutionSettings(**{name: settings[name] for name in names})


ALGORITHMS: dict[str, Maker] = {
    "evolution": evolution,
    "evolution-public": evolution_public,
    "cma": cma,
}
