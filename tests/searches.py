"""A small search problem with losses that are known functions, for the tests of searches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longrope.factors import RopeFactors
from longrope.methods import Geometry
from longrope.search.algorithm import Algorithm, Candidate
from longrope.search.algorithms import ALGORITHMS
from longrope.search.driver import Problem, closed_form_seeds, space_for
from longrope.search.objective import perplexity
from longrope.search.space import Individual

SCALE = 8.0
GEOMETRY = Geometry(num_pairs=16, rope_theta=10_000.0, original_length=256)
SETTINGS: dict[str, Any] = {
    "max_factor_ratio": 1.25,
    "grid": 0.01,
    "start_tokens": [0, 2, 8],
    "num_documents": 3,
    "population_size": 12,
    "num_mutations": 4,
    "num_crossovers": 4,
    "num_parents": 6,
    "mutation_probability": 0.3,
    "num_iterations": 5,
    "cma": {
        "num_knots": 4,
        "generation_size": 6,
        "num_generations": 4,
        "batch_documents": 2,
        "step": 0.5,
    },
    "seed": 3,
}
SPACE = space_for(GEOMETRY, SETTINGS, SCALE)
SEEDS = closed_form_seeds(SPACE, GEOMETRY, SCALE)
PROBLEM = Problem(
    space=SPACE,
    base=(1.0,) * GEOMETRY.num_pairs,
    seeds=SEEDS,
    attention_scale=1.2,
    original_length=256,
    target_length=2048,
)

Loss = Callable[[Individual, int], float]
"""of an individual on a document"""


def make(name: str, **changes: Any) -> Algorithm:
    """Return an algorithm on the small problem; `cma` changes some of its own settings."""
    own = SETTINGS["cma"] | changes.pop("cma", {})
    return ALGORITHMS[name](SPACE, GEOMETRY, SCALE, SEEDS, SETTINGS | changes | {"cma": own})


def run(algorithm: Algorithm, loss: Loss) -> list[list[Candidate]]:
    """Run an algorithm to its end and return its candidates by iteration."""
    asked = []
    while not algorithm.finished:
        candidates = algorithm.ask()
        algorithm.tell(
            candidates,
            [[loss(c.individual, document) for document in c.documents] for c in candidates],
        )
        asked.append(candidates)
    return asked


def hill(individual: Individual, document: int) -> float:
    """Return a loss that is least where every level is 300 and 8 tokens are unscaled."""
    distance = float(np.abs(np.array(individual.levels) - 300).sum())
    return distance + (individual.num_start_tokens != 8) + document


def noise(seed: int) -> Loss:
    """Return a loss that says nothing: a number drawn for each individual and document."""

    def loss(individual: Individual, document: int) -> float:
        told = (*individual.levels, individual.num_start_tokens, document, seed)
        return float(np.random.default_rng(told).random())

    return loss


class FakeObjective:
    """A known loss in the place of a model's; remembers which documents it was asked to score."""

    def __init__(
        self, loss: Callable[[RopeFactors, int], float], lengths: Sequence[int] = (100, 100, 100)
    ) -> None:
        self.scored: list[int] = []
        self._loss = loss
        self._lengths = lengths

    def tokens(self, document: int) -> int:
        return self._lengths[document]

    def loss(self, factors: RopeFactors, document: int) -> float:
        self.scored.append(document)
        return self._loss(factors, document)

    def perplexity(self, factors: RopeFactors) -> float:
        losses = [self._loss(factors, document) for document in range(len(self._lengths))]
        return perplexity(float(np.mean(losses)))


def away_from_four(factors: RopeFactors, document: int) -> float:
    """Return a loss that is least where every factor is 4 and 8 tokens are unscaled."""
    distance = float(np.abs(np.array(factors.factors) - 4.0).mean())
    return distance + 0.1 * (factors.num_start_tokens != 8) + 0.01 * document
