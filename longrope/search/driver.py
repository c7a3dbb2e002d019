"""One search from seeds to the best factors: ask, score, tell, and a history of every candidate."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from longrope.factors import RopeFactors
from longrope.methods import METHODS, Geometry
from longrope.search.algorithm import Algorithm, Best, Candidate
from longrope.search.objective import Objective, perplexity
from longrope.search.space import Individual, Space

CLOSED_FORM_SEEDS = ("linear", "ntk", "yarn")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched: a space of factors on top of those a model already has."""

    space: Space
    base: tuple[float, ...]
    """factors the model was tuned under, 1 for a pretrained one; the found ones multiply them"""
    seeds: Mapping[str, Individual]
    attention_scale: float
    original_length: int
    target_length: int

    def compose(self, individual: Individual) -> RopeFactors:
        """Return an individual's factors times the base's (second interpolation of the paper)."""
        own = self.space.factors(individual)
        return RopeFactors(
            factors=tuple(float(round(a * b, 10)) for a, b in zip(own, self.base, strict=True)),
            num_start_tokens=individual.num_start_tokens,
            attention_scale=self.attention_scale,
            original_length=self.original_length,
            target_length=self.target_length,
            method="longrope",
        )


def space_for(geometry: Geometry, settings: Mapping[str, Any], scale: float) -> Space:
    """Return the space of a search that extends by `scale`."""
    return Space(
        num_pairs=geometry.num_pairs,
        max_factor=settings["max_factor_ratio"] * scale,
        grid=settings["grid"],
        start_tokens=tuple(settings["start_tokens"]),
    )


def closed_form_seeds(space: Space, geometry: Geometry, scale: float) -> dict[str, Individual]:
    """Return PI, NTK and YaRN at a scale, rounded to the grid, by name."""
    return {
        name: space.nearest(METHODS[name](geometry, scale).tolist()) for name in CLOSED_FORM_SEEDS
    }


def search(
    problem: Problem,
    algorithm: Algorithm,
    objective: Objective,
    history: Path,
    provenance: Mapping[str, str | int | float],
) -> RopeFactors:
    """Run an algorithm and return the best factors; `history` gets one JSON line per candidate.

    Raises:
        ValueError: if no candidate has a finite perplexity.
    """
    with history.open("w") as stream:
        recorder = _Recorder(problem, objective, stream)
        while not algorithm.finished:
            candidates = algorithm.ask()
            losses = [recorder.score(algorithm.iteration, candidate) for candidate in candidates]
            algorithm.tell(candidates, losses)
            best = perplexity(algorithm.best.loss)
            recorder.progress.set_postfix_str(f"best perplexity {best:.3f}")
        recorder.progress.close()
    return _with_provenance(problem, objective, algorithm.best, recorder, provenance)


class _Recorder:
    """Scores candidates one by one, with a progress bar, and writes the history."""

    def __init__(self, problem: Problem, objective: Objective, stream: TextIO) -> None:
        self.problem = problem
        self.objective = objective
        self.stream = stream
        self.count = 0
        self.failed = 0
        self.scored_tokens = 0
        """of all that was scored; the same individual on the same document counts once"""
        self._scored: set[tuple[Individual, int]] = set()
        self.progress: Any = tqdm(desc="search", unit="candidate", mininterval=1.0)

    def score(self, iteration: int, candidate: Candidate) -> list[float]:
        """Return a candidate's losses by document, inf where one is not finite."""
        factors = self.problem.compose(candidate.individual)
        losses = [self._loss(candidate.individual, factors, d) for d in candidate.documents]
        mean = perplexity(float(np.mean(losses)))
        self.count += 1
        self.failed += not math.isfinite(mean)
        line = {
            "iteration": iteration,
            "candidate": self.count,
            "origin": candidate.origin,
            "factors": list(factors.factors),
            "num_start_tokens": factors.num_start_tokens,
            "documents": list(candidate.documents),
            "perplexity": mean if math.isfinite(mean) else None,
            "scored_tokens": self.scored_tokens,
        }
        self.stream.write(json.dumps(line) + "\n")
        self.progress.update()
        return losses

    def _loss(self, individual: Individual, factors: RopeFactors, document: int) -> float:
        if (individual, document) not in self._scored:
            self._scored.add((individual, document))
            self.scored_tokens += self.objective.tokens(document)
        return self.objective.loss(factors, document)


def _with_provenance(
    problem: Problem,
    objective: Objective,
    found: Best,
    recorder: _Recorder,
    provenance: Mapping[str, str | int | float],
) -> RopeFactors:
    """Return the best factors with what they cost, and their perplexity without start tokens.

    No export format can express start tokens, so what they are worth must be known.
    """
    if not math.isfinite(found.loss):
        raise ValueError(f"none of {recorder.count} candidates has a finite perplexity")
    best = problem.compose(found.individual)
    exported = best.model_copy(update={"num_start_tokens": 0})
    facts: dict[str, str | int | float] = {
        **provenance,
        "perplexity": perplexity(found.loss),
        "perplexity_without_start_tokens": objective.perplexity(exported),
        "num_candidates": recorder.count,
        "num_failed_candidates": recorder.failed,
        "scored_tokens": recorder.scored_tokens,
    }
    return best.model_copy(update={"provenance": facts})
