"""Idle time of the workers of a search: how well its units fill them, with documents whose cost is a sleep.

    python benchmarks/workers.py [--workers 4] [--documents 5] [--iterations 2] [--seeds 3]

A text of T tokens costs T milliseconds; T is 400 for every text, or drawn evenly in logarithm from 50 to
1600. A worker is idle while it does not sleep, from the first unit of an iteration to its last score: an
algorithm hears all losses of an iteration before it asks again. Seven minutes with 4 workers, mostly asleep.

16 candidates  of every iteration on all documents
algorithms     what each asks for at its defaults, but for evolutions of few iterations: its candidates and
               documents are those of a search under a known loss, and what was scored before is not again
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longrope.rope.factors import RopeFactors
from longrope.rope.methods import Geometry
from longrope.runtime import Workers
from longrope.search.algorithms.algorithm import Candidate, Loss
from longrope.search.algorithms.problem import Problem, closed_form_seeds, space_for
from longrope.search.algorithms.registry import make
from longrope.search.algorithms.space import Individual
from longrope.search.workers.processes import Processes, opened
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Score, Text, Unit
from longrope.settings.algorithms import AlgorithmSettings
from longrope.settings.search import SearchMethod

FACTORS = RopeFactors(factors=(1.0,), original_length=1, target_length=2, method="longrope")
GEOMETRY = Geometry(num_pairs=32, rope_theta=10_000.0, original_length=256)
TARGET_LENGTH = 1024
SHORTEST, LONGEST, EVEN = 50, 1600, 400
"""tokens, and milliseconds"""
NAMES = ("auto", "cma", "evolution")

Round = list[int]
"""documents of the units of one iteration"""


@dataclass(frozen=True)
class SleepScorer(Scorer):
    """The recipe of a worker that sleeps."""

    def set_up(self) -> None:
        """Do nothing: a worker that sleeps needs no threads."""

    def open(self) -> "Sleeper":
        """Return a sleeper."""
        return Sleeper()


class Sleeper:
    """Sleeps a millisecond for each token."""

    def score(self, unit: Unit) -> Score:
        """Return the seconds slept in the place of a loss."""
        began = time.perf_counter()
        time.sleep(len(unit.text.tokens) / 1000)
        return Score(time.perf_counter() - began, 1)


def main() -> None:
    """Print the idle share of each algorithm's units."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--documents", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=2, help="of evolutions")
    parser.add_argument("--seeds", type=int, default=3, help="of documents and searches")
    options = parser.parse_args()
    scorer = SleepScorer(Path(), "float32", full_attention=False, chunk_length=1)
    with opened(scorer, Workers(options.workers)) as pool:
        # long enough that all workers are there before the clock starts
        list(pool.scores([unit(1000, 0)] * 4 * options.workers))
        sixteen = [list(range(options.documents)) * 16] * options.iterations
        report("16 candidates", pool, [sixteen], options)
        for name in NAMES:
            seeds = range(options.seeds if name != "evolution" else 1)
            searches = [rounds_of(name, seed, options) for seed in seeds]
            report(name, pool, searches, options)


def report(
    name: str, pool: Processes, searches: list[list[Round]], options: argparse.Namespace
) -> None:
    """Print the idle time of some searches whose documents cost alike, and unlike."""
    shares = []
    for lowest, highest in ((EVEN, EVEN), (SHORTEST, LONGEST)):
        busy = total = 0.0
        for seed, rounds in enumerate(searches):
            generator = np.random.default_rng(seed)
            logs = generator.uniform(*np.log([lowest, highest]), options.documents)
            slept, whole = replayed(pool, rounds, np.exp(logs).round().astype(int).tolist())
            busy, total = busy + slept, total + whole * options.workers
        shares.append(1 - busy / total)
    units = sum(len(documents) for rounds in searches for documents in rounds) / len(searches)
    print(
        f"{name}: {units:.0f} units; idle {shares[0]:.1%} with even documents, "
        f"{shares[1]:.1%} with uneven ones",
        flush=True,
    )


def replayed(pool: Processes, rounds: list[Round], lengths: list[int]) -> tuple[float, float]:
    """Return the seconds that all workers slept, and those that the rounds took."""
    slept = whole = 0.0
    for documents in rounds:
        units = [unit(lengths[document], document) for document in documents]
        began = time.perf_counter()
        slept += sum(score.nll for _, score in pool.scores(units))
        whole += time.perf_counter() - began
    return slept, whole


def rounds_of(name: str, seed: int, options: argparse.Namespace) -> list[Round]:
    """Return the documents that a search has scored, by iteration, without those scored before."""
    scale = TARGET_LENGTH / GEOMETRY.original_length
    space = space_for(GEOMETRY, SearchMethod(), scale)
    problem = Problem(
        space=space,
        geometry=GEOMETRY,
        base=(1.0,) * GEOMETRY.num_pairs,
        seeds=closed_form_seeds(space, GEOMETRY, scale),
        attention_scale=1.0,
        source_length=GEOMETRY.original_length,
        target_length=TARGET_LENGTH,
    )
    settings = settings_of(name, options)
    algorithm = make(problem, settings, num_documents=options.documents, seed=seed)
    known: set[tuple[Individual, int]] = set()
    rounds = []
    while not algorithm.finished:
        candidates = algorithm.ask()
        asked = {request: None for c in candidates for request in requests(c)}
        rounds.append(
            [document for candidate, document in asked if (candidate, document) not in known]
        )
        known |= asked.keys()
        losses = [[Loss(loss(*request)) for request in requests(c)] for c in candidates]
        algorithm.tell(candidates, losses)
    return [documents for documents in rounds if documents]


def requests(candidate: Candidate) -> Iterator[tuple[Individual, int]]:
    """Yield a candidate with each of its documents."""
    yield from ((candidate.individual, document) for document in candidate.documents)


def loss(individual: Individual, document: int) -> float:
    """Return a loss that is least on a line of levels, another one for each document."""
    line = np.linspace(0, 250 + 10 * document, len(individual.levels))
    return float(np.abs(np.array(individual.levels) - line).mean())


def settings_of(name: str, options: argparse.Namespace) -> AlgorithmSettings:
    """Return the default settings of an algorithm, but for the iterations of an evolution."""
    changes = {"num_iterations": options.iterations} if name.startswith("evolution") else {}
    return SearchMethod.model_validate({"algorithm": {"name": name, **changes}}).algorithm


def unit(num_tokens: int, document: int) -> Unit:
    """Return a unit on a text of a number of tokens."""
    return Unit(FACTORS, Text(np.zeros(num_tokens, dtype=np.int64), {"document": document}))


if __name__ == "__main__":
    main()
