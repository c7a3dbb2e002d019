"""Idle time of the workers of a search, with documents of uneven length whose cost is a sleep.

    python benchmarks/workers.py [--workers 4] [--candidates 16] [--documents 5] [--iterations 4]

A text of T tokens costs T milliseconds; T is drawn evenly in logarithm from 50 to 1600. A worker is idle
while it does not sleep, from the first unit of an iteration to its last score: an algorithm hears all
losses of an iteration before it asks again.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longrope.factors import RopeFactors
from longrope.runtime import Workers
from longrope.search.processes import opened
from longrope.search.workers import Score, Scorer, Text, Unit

FACTORS = RopeFactors(factors=(1.0,), original_length=1, target_length=2, method="longrope")
SHORTEST, LONGEST = 50, 1600
"""tokens, and milliseconds"""


@dataclass(frozen=True)
class SleepScorer(Scorer):
    """The recipe of a worker that sleeps."""

    def set_up(self) -> None:
        """Need nothing: a worker that sleeps has no arithmetic."""

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
    """Print the share of idle time, over all iterations and of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--documents", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=4)
    options = parser.parse_args()
    scorer = SleepScorer(Path(), "float32", full_attention=False, chunk_length=1)
    with opened(scorer, Workers(options.workers)) as pool:
        # long enough that all workers are there before the clock starts
        list(pool.scores([unit(1000, 0)] * 4 * options.workers))
        generator = np.random.default_rng(0)
        shares = []
        for _ in range(options.iterations):
            lengths = np.exp(generator.uniform(*np.log([SHORTEST, LONGEST]), options.documents))
            units = [
                unit(int(length), index)
                for _ in range(options.candidates)
                for index, length in enumerate(lengths)
            ]
            began = time.perf_counter()
            slept = sum(score.nll for _, score in pool.scores(units))
            shares.append((slept, (time.perf_counter() - began) * options.workers))
    busy, total = np.sum(shares, axis=0)
    each = ", ".join(f"{1 - slept / whole:.1%}" for slept, whole in shares)
    print(f"idle {1 - busy / total:.1%} of {total:.1f} worker seconds (by iteration {each})")


def unit(num_tokens: int, document: int) -> Unit:
    """Return a unit on a text of a number of tokens."""
    return Unit(FACTORS, Text(np.zeros(num_tokens, dtype=np.int64), {"document": document}))


if __name__ == "__main__":
    main()
