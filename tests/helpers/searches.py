"""A small search problem with losses that are known functions, for the tests of searches."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from longrope.rope.factors import RopeFactors
from longrope.rope.methods import Geometry
from longrope.search.algorithms import registry
from longrope.search.algorithms.algorithm import Algorithm, Best, Candidate, Loss
from longrope.search.algorithms.problem import Problem, closed_form_seeds, space_for
from longrope.search.algorithms.space import Individual
from longrope.search.workers.units import Score
from longrope.settings.algorithms import AlgorithmSettings
from longrope.settings.search import SearchMethod

SCALE = 8.0
GEOMETRY = Geometry(num_pairs=16, rope_theta=10_000.0, original_length=256)
EVOLUTION: dict[str, Any] = {
    "population_size": 12,
    "num_mutations": 4,
    "num_crossovers": 4,
    "num_parents": 6,
    "mutation_probability": 0.3,
    "num_iterations": 5,
}
SMALL: dict[str, dict[str, Any]] = {
    "evolution": EVOLUTION,
    "evolution-public": EVOLUTION,
    "cma": {
        "num_knots": 4,
        "generation_size": 6,
        "num_generations": 4,
        "batch_documents": 2,
        "step": 0.5,
    },
    "gradient": {
        "start_documents": 2,
        "start_token_choices": 5,
        "num_steps": 5,
        "batch_documents": 2,
        "step": 0.2,
    },
    "auto": {
        "start_documents": 2,
        "start_token_choices": 5,
        "ramp_generation_size": 5,
        "ramp_num_generations": 3,
        "ramp_step": 1.0,
        "num_knots": 4,
        "knot_generation_size": 6,
        "knot_num_generations": 2,
        "knot_step": 0.3,
        "batch_documents": 2,
    },
}
"""settings of every algorithm that suit the small problem, by name"""
SEARCH = SearchMethod(start_tokens=[0, 2, 8], num_documents=3)
SEED = 3
SPACE = space_for(GEOMETRY, SEARCH, SCALE)
SEEDS = closed_form_seeds(SPACE, GEOMETRY, SCALE)
PROBLEM = Problem(
    space=SPACE,
    geometry=GEOMETRY,
    base=(1.0,) * GEOMETRY.num_pairs,
    seeds=SEEDS,
    attention_scale=1.2,
    source_length=256,
    target_length=2048,
)

Landscape = Callable[[Individual, int], float]
"""of an individual on a document"""


def small(name: str, **changes: Any) -> AlgorithmSettings:
    """Return the settings of an algorithm that suit the small problem, with changes."""
    settings = {"name": name, **SMALL[name], **changes}
    return SearchMethod.model_validate({"algorithm": settings}).algorithm


def make(name: str, *, seed: int = SEED, num_documents: int = 3, **changes: Any) -> Algorithm:
    """Return an algorithm on the small problem, under changed settings."""
    return registry.make(PROBLEM, small(name, **changes), num_documents=num_documents, seed=seed)


def losses(values: Sequence[Sequence[float]]) -> list[list[Loss]]:
    """Return losses without gradients."""
    return [[Loss(value) for value in row] for row in values]


def losses_under(candidates: Sequence[Candidate], loss: Landscape) -> list[list[Loss]]:
    """Return the losses of candidates, with random gradients where they ask for them."""

    def gradient(candidate: Candidate, document: int) -> tuple[float, ...]:
        derivatives = range(SPACE.num_pairs + 1)
        return tuple(noise(d)(candidate.individual, document) - 0.5 for d in derivatives)

    return [
        [Loss(loss(c.individual, d), gradient(c, d) if c.gradient else None) for d in c.documents]
        for c in candidates
    ]


def run(algorithm: Algorithm, loss: Landscape) -> list[list[Candidate]]:
    """Run an algorithm to its end and return its candidates by iteration."""
    asked = []
    while not algorithm.finished:
        candidates = algorithm.ask()
        algorithm.tell(candidates, losses_under(candidates, loss))
        asked.append(candidates)
    return asked


def hill(individual: Individual, document: int) -> float:
    """Return a loss that is least where every level is 300 and 8 tokens are unscaled."""
    distance = float(np.abs(np.array(individual.levels) - 300).sum())
    return distance + (individual.num_start_tokens != 8) + document


def noise(seed: int) -> Landscape:
    """Return a loss of pure noise: a number drawn for each individual and document."""

    def loss(individual: Individual, document: int) -> float:
        entropy = (*individual.levels, individual.num_start_tokens, document, seed)
        return float(np.random.default_rng(entropy).random())

    return loss


class Scripted:
    """Asks for given groups, whatever the losses; its best is the first candidate."""

    def __init__(self, *groups: list[Candidate]) -> None:
        self.groups = groups
        self.iteration = 0
        self.answers: list[Sequence[Sequence[Loss]]] = []

    @property
    def finished(self) -> bool:
        return self.iteration == len(self.groups)

    @property
    def best(self) -> Best:
        return Best(self.groups[0][0].individual, 0.5)

    def ask(self) -> list[Candidate]:
        return self.groups[self.iteration]

    def tell(self, candidates: Sequence[Candidate], losses: Sequence[Sequence[Loss]]) -> None:
        self.answers.append(losses)
        self.iteration += 1


LOW, HIGH = Individual((0,) * 16, 0), Individual((300,) * 16, 8)


class FakeObjective:
    """A known loss in the place of a model's; remembers which documents it was asked to score."""

    def __init__(
        self, loss: Callable[[RopeFactors, int], float], lengths: Sequence[int] = (100, 100, 100)
    ) -> None:
        self.scored_documents: list[int] = []
        self._loss = loss
        self._lengths = lengths

    @property
    def documents(self) -> tuple[int, ...]:
        return tuple(range(len(self._lengths)))

    def tokens(self, document: int) -> int:
        return self._lengths[document]

    def unit(
        self, factors: RopeFactors, document: int, gradient: bool = False
    ) -> tuple[RopeFactors, int, bool]:
        return factors, document, gradient

    def scores(
        self, units: Sequence[tuple[RopeFactors, int, bool]], done: Callable[[int], None]
    ) -> list[Score]:
        self.scored_documents += [document for _, document, _ in units]
        for position in range(len(units)):
            done(position)
        slope = tuple(np.linspace(-1, 1, GEOMETRY.num_pairs + 1).tolist())
        return [
            Score(self._loss(factors, document), 1, slope if gradient else None)
            for factors, document, gradient in units
        ]


def away_from_four(factors: RopeFactors, document: int) -> float:
    """Return a loss that is least where every factor is 4 and 8 tokens are unscaled."""
    distance = float(np.abs(np.array(factors.factors) - 4.0).mean())
    return distance + 0.1 * (factors.num_start_tokens != 8) + 0.01 * document
