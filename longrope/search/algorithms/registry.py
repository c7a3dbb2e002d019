"""The search algorithm that settings name. To add one, see `longrope.settings.algorithms`."""

import importlib

from longrope.search.algorithms.algorithm import Algorithm
from longrope.search.algorithms.problem import Problem
from longrope.settings.algorithms import AlgorithmSettings


def make(
    problem: Problem, settings: AlgorithmSettings, *, num_documents: int, seed: int
) -> Algorithm:
    """Return an algorithm at its beginning.

    Args:
        problem: what it searches.
        settings: of the algorithm.
        num_documents: documents that candidates can be scored on.
        seed: of its random choices.
    """
    # By name: an edit of one algorithm must not make the searches of another stale.
    module = importlib.import_module(f"longrope.search.algorithms.{settings.module}")
    algorithm: Algorithm = module.make(problem, settings, num_documents, seed)
    return algorithm
