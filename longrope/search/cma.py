"""CMA-ES on a few documents at a time: small batches of documents move a mean, a fair selection ends it.

The variables bend the logarithm of the best closed form's factors: knots spread over the rotary pairs, linear
in between. An individual is what remains of a sample after isotonic projection, bounds and the grid. Each
generation is scored on documents drawn at random, the same for all its individuals: what makes a document
hard is then common to all and cancels in their ranks.
Source: Hansen 2016 (arXiv:1604.00772) for CMA-ES, by the package `cmaes`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cmaes import CMA
from numpy.typing import NDArray

from longrope.search.algorithm import Best, Candidate
from longrope.search.space import Individual, Space

Vector = NDArray[np.float64]
WORST = 1e6
"""stands for a loss that is not finite: CMA-ES ranks, it does not average"""


@dataclass(frozen=True, kw_only=True)
class CmaSettings:
    """Budget and steps."""

    num_documents: int
    """documents of the search"""
    generation_size: int
    """individuals per generation"""
    batch_documents: int
    """documents each generation is scored on"""
    step: float
    """initial standard deviation, in units of log factor"""
    knots: int
    """variables of the curve"""
    num_generations: int
    """generations before the selection"""


class Cma:
    """Closed forms on all documents, generations on a few, and the selection of the last means."""

    def __init__(
        self,
        space: Space,
        seeds: Mapping[str, Individual],
        settings: CmaSettings,
        seed: int,
    ) -> None:
        self.space = space
        self.settings = settings
        self.iteration = 0
        self._seeds = seeds
        self._generator = np.random.default_rng(seed)
        self._seed = seed
        self._best = Best(next(iter(seeds.values())), math.inf)
        self._samples: list[Vector] = []
        self._means: list[Vector] = []
        self._cma: CMA | None = None
        self._basis = _hats(space.num_pairs, settings.knots)
        self._centre = np.zeros(space.num_pairs)

    @property
    def finished(self) -> bool:
        """Whether the selection has been told."""
        return self.iteration > self.settings.num_generations + 1

    @property
    def best(self) -> Best:
        """The best of what was scored on all documents."""
        return self._best

    @property
    def _all(self) -> tuple[int, ...]:
        return tuple(range(self.settings.num_documents))

    def ask(self) -> list[Candidate]:
        """Return the seeds, then a generation, and at the end what to select from."""
        if self.iteration == 0:
            return [Candidate(one, f"seed:{name}", self._drawn) for name, one in self._seeds.items()]
        if self.iteration > self.settings.num_generations:
            return self._selection()
        assert self._cma is not None
        self._samples = [self._cma.ask() for _ in range(self.settings.generation_size)]
        return [Candidate(self._individual(x), "cma", self._batch()) for x in self._samples]
