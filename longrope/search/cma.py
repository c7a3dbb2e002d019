"""CMA-ES on a few knots and few documents: small batches move a mean, a fair selection ends the search.

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
from scipy.optimize import isotonic_regression

from longrope.search.algorithm import Best, Candidate
from longrope.search.space import Individual, Space

Vector = NDArray[np.float64]
WORST = 1e6
"""stands for a loss that is not finite: CMA-ES ranks its samples and averages no loss"""


@dataclass(frozen=True, kw_only=True)
class CmaSettings:
    """Budget and steps."""

    num_documents: int
    """documents of the search"""
    generation_size: int
    """individuals per generation"""
    batch_documents: int
    """documents that the closed forms, and each generation, are scored on"""
    step: float
    """first standard deviation of a knot, in units of log factor"""
    num_knots: int
    """variables of the curve"""
    num_generations: int
    """generations before the selection"""


class Cma:
    """The closed forms and the generations on a few documents, then a selection on all."""

    def __init__(
        self, space: Space, seeds: Mapping[str, Individual], settings: CmaSettings, seed: int
    ) -> None:
        self.space = space
        self.settings = settings
        self.iteration = 0
        self._seeds = seeds
        self._generator = np.random.default_rng(seed)
        self._best = Best(next(iter(seeds.values())), math.inf)
        self._start = self._best.individual
        self._basis = hats(space.num_pairs, settings.num_knots)
        self._cma = CMA(
            mean=np.zeros(settings.num_knots),
            sigma=settings.step,
            population_size=settings.generation_size,
            seed=int(self._generator.integers(2**31)),
        )
        self._samples: list[Vector] = []
        self._means: list[Vector] = []

    @property
    def finished(self) -> bool:
        """Whether the selection has been told."""
        return self.iteration > self.settings.num_generations + 1

    @property
    def best(self) -> Best:
        """The best of the selection; before it, the best closed form on the first documents."""
        return self._best

    def ask(self) -> list[Candidate]:
        """Return the closed forms, then generations, and at the end what to select from."""
        if self.iteration == 0:
            drawn = self._draw()
            return [Candidate(one, f"seed:{name}", drawn) for name, one in self._seeds.items()]
        if self.iteration > self.settings.num_generations:
            return self._selection()
        drawn = self._draw()
        self._samples = [self._cma.ask() for _ in range(self.settings.generation_size)]
        return [Candidate(self._individual(sample), "cma", drawn) for sample in self._samples]

    def tell(self, candidates: Sequence[Candidate], losses: Sequence[Sequence[float]]) -> None:
        """Take the losses of what `ask` returned; a loss that is not finite ranks last."""
        means = [_mean(told) for _, told in zip(candidates, losses, strict=True)]
        if 0 < self.iteration <= self.settings.num_generations:
            ranked = [min(mean, WORST) for mean in means]
            self._cma.tell(list(zip(self._samples, ranked, strict=True)))
            self._means.append(self._cma.mean.copy())
        else:
            found = min(range(len(means)), key=means.__getitem__)
            self._best = Best(candidates[found].individual, means[found])
            self._start = self._best.individual if self.iteration == 0 else self._start
        self.iteration += 1

    def _selection(self) -> list[Candidate]:
        """Return the closed form it started from, the last mean and the average of the later means."""
        late = self._means[len(self._means) // 2 :]
        choices = {self._start: "selection:start"}
        choices.setdefault(self._individual(self._means[-1]), "selection:mean")
        choices.setdefault(self._individual(np.mean(late, axis=0)), "selection:average")
        documents = tuple(range(self.settings.num_documents))
        return [Candidate(one, origin, documents) for one, origin in choices.items()]

    def _draw(self) -> tuple[int, ...]:
        count = min(self.settings.batch_documents, self.settings.num_documents)
        drawn = self._generator.choice(self.settings.num_documents, count, replace=False)
        return tuple(int(document) for document in np.sort(drawn))

    def _individual(self, sample: Vector) -> Individual:
        """Return the start bent by a sample: projected, clipped and rounded."""
        start = np.log(self.space.factors(self._start))
        curve = isotonic_regression(start + self._basis @ sample).x
        return self.space.nearest(np.exp(curve).tolist(), self._start.num_start_tokens)


def _mean(losses: Sequence[float]) -> float:
    mean = float(np.mean(losses))
    return mean if math.isfinite(mean) else math.inf


def hats(num_pairs: int, num_knots: int) -> Vector:
    """Return piecewise linear functions with evenly spread knots, shape (P, K); rows sum to 1."""
    places = np.linspace(0, num_knots - 1, num_pairs)
    return np.maximum(0.0, 1.0 - np.abs(places[:, None] - np.arange(num_knots)[None, :]))
