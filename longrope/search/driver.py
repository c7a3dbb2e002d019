"""One search from seeds to the best factors: ask, score, tell, and a history of every candidate."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from longrope.factors import RopeFactors
from longrope.methods import METHODS, Geometry
from longrope.search.algorithm import Algorithm, Candidate, Loss
from longrope.search.critical import critical_pairs
from longrope.search.objective import Objective, perplexity
from longrope.search.progress import Progress
from longrope.search.space import AttentionGrid, Individual, Space
from longrope.search.workers import Score
from longrope.search_cost import GRADIENT_COST

CLOSED_FORM_SEEDS = ("linear", "ntk", "yarn")

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is searched: a space of factors on top of those a model already has."""

    space: Space
    geometry: Geometry
    base: tuple[float, ...]
    """factors the model was tuned under, 1 for a pretrained one; the found ones multiply them"""
    seeds: Mapping[str, Individual]
    attention_scale: float
    """where the space does not search it"""
    source_length: int
    """window that the model knows: the original one, or the one it was tuned to; tokens"""
    target_length: int

    @property
    def scale(self) -> float:
        """Target over source length, at least 1."""
        return max(1.0, self.target_length / self.source_length)

    def compose(self, individual: Individual) -> RopeFactors:
        """Return an individual's factors times the base's (second interpolation of the paper)."""
        own = self.space.factors(individual)
        searched = self.space.attention_scale(individual)
        return RopeFactors(
            factors=tuple(float(round(a * b, 10)) for a, b in zip(own, self.base, strict=True)),
            num_start_tokens=individual.num_start_tokens,
            attention_scale=self.attention_scale if searched is None else searched,
            original_length=self.geometry.original_length,
            target_length=self.target_length,
            rope_theta=self.geometry.rope_theta,
            partial_rotary_factor=self.geometry.partial_rotary_factor,
            method="longrope",
        )


def space_for(
    geometry: Geometry,
    settings: Mapping[str, Any],
    scale: float,
    *,
    least: float | None = None,
    attention_scale: float = 1.0,
) -> Space:
    """Return the space of a search that extends by `scale`.

    Args:
        geometry: of the model.
        settings: of the search.
        scale: what bounds the factors from above, times a ratio.
        least: lower bound of the factors that are searched under a critical dimension; `scale` if None.
        attention_scale: of the seeds, where it is searched.

    Raises:
        UserError: if the critical dimension leaves no pair to search.
    """
    critical, scales = settings.get("critical_dimension"), settings.get("attention_scales")
    lowest = scale if least is None else least
    return Space(
        num_pairs=geometry.num_pairs,
        max_factor=settings["max_factor_ratio"] * scale,
        grid=settings["grid"],
        start_tokens=tuple(settings["start_tokens"]),
        min_factor=1.0 if critical is None else lowest,
        critical_pairs=critical_pairs(critical, geometry),
        attention=AttentionGrid(**scales, start=attention_scale) if scales else None,
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
    with history.open("w") as stream, Progress() as progress:
        recorder = _Recorder(problem, objective, stream, progress)
        while not algorithm.finished:
            candidates = algorithm.ask()
            scores = recorder.score(candidates, algorithm.iteration, algorithm.remaining)
            losses = [[Loss(one.loss, one.mean_gradient) for one in row] for row in scores]
            algorithm.tell(candidates, losses)
            progress.show(recorder.count, perplexity(algorithm.best.loss))
        return _with_provenance(algorithm, recorder, provenance)


Piece = tuple[Individual, int, bool]
"""individual, document and whether the gradient is wanted: what is scored once"""


def _pieces(candidate: Candidate) -> list[Piece]:
    return [(candidate.individual, d, candidate.gradient) for d in candidate.documents]


class _Recorder:
    """Scores candidates, counts what that costs, and writes the history in the order of asking."""

    def __init__(
        self, problem: Problem, objective: Objective, stream: TextIO, progress: Progress
    ) -> None:
        self.problem = problem
        self.objective = objective
        self.stream = stream
        self.progress = progress
        self.count = 0
        self.individuals: set[Individual] = set()
        self.failed: set[Individual] = set()
        self.scored_tokens = 0
        """of all that was scored; the same individual on the same document counts once"""
        self._scored: set[Piece] = set()

    def score(
        self, candidates: Sequence[Candidate], iteration: int, remaining: int
    ) -> list[list[Score]]:
        """Return the scores of candidates by document; a loss that is not finite is inf."""
        scores = self._scores(candidates, iteration, remaining)
        for candidate, row in zip(candidates, scores, strict=True):
            self._record(iteration, candidate, row)
        return scores

    def without_start_tokens(self, individual: Individual, iteration: int) -> float:
        """Return an individual's perplexity without start tokens: counted, but no candidate."""
        exported = replace(individual, num_start_tokens=0)
        candidate = Candidate(exported, "export", self.objective.documents)
        (row,) = self._scores([candidate], iteration, 1)
        self._spend(candidate)
        return _perplexity(row)

    def _scores(
        self, candidates: Sequence[Candidate], iteration: int, remaining: int
    ) -> list[list[Score]]:
        """Return scores by candidate and document, and show how they come."""
        composed = {one.individual: self.problem.compose(one.individual) for one in candidates}
        pieces = [piece for one in candidates for piece in _pieces(one)]
        units = [self.objective.unit(composed[i], document, slope) for i, document, slope in pieces]
        new = set(pieces) - self._scored
        self.progress.begin(iteration, self._cost(new), len(candidates), remaining)

        def done(position: int) -> None:
            if (piece := pieces[position]) in new:
                new.remove(piece)
                self.progress.count(self._cost([piece]))

        found = iter(self.objective.scores(units, done))
        scores = [list(islice(found, len(one.documents))) for one in candidates]
        # individuals that come to the same factors are one unit, and still count each
        self.progress.count(self._cost(new))
        return scores

    def _record(self, iteration: int, candidate: Candidate, scores: list[Score]) -> None:
        """Count a candidate and write its line."""
        factors = self.problem.compose(candidate.individual)
        mean = _perplexity(scores)
        self._spend(candidate)
        self.individuals.add(candidate.individual)
        self.count += 1
        if not math.isfinite(mean):
            self._fail(candidate, scores)
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
        if self.problem.space.attention:
            line["attention_scale"] = factors.attention_scale
        self.stream.write(json.dumps(line) + "\n")

    def _fail(self, candidate: Candidate, scores: list[Score]) -> None:
        """Count and log a candidate without a finite perplexity."""
        self.failed.add(candidate.individual)
        by_document = zip(candidate.documents, scores, strict=True)
        document, worst = max(by_document, key=lambda pair: pair[1].loss)
        unit = self.objective.unit(self.problem.compose(candidate.individual), document)
        LOGGER.warning("candidate %d ranks last: its loss on %s is %s", self.count, unit, worst.nll)

    def _spend(self, candidate: Candidate) -> None:
        """Count the tokens of what was not scored before."""
        pieces = set(_pieces(candidate)) - self._scored
        self.scored_tokens += self._cost(pieces)
        self._scored |= pieces

    def _cost(self, pieces: Iterable[Piece]) -> int:
        """Return the tokens that pieces count as."""
        return sum(
            (GRADIENT_COST if slope else 1) * self.objective.tokens(document)
            for _, document, slope in pieces
        )


def _perplexity(scores: Sequence[Score]) -> float:
    """Return exp(mean loss over documents); inf where it is not finite."""
    return perplexity(float(np.mean([score.loss for score in scores])))


def _with_provenance(
    algorithm: Algorithm, recorder: _Recorder, provenance: Mapping[str, str | int | float]
) -> RopeFactors:
    """Return the best factors with what they cost, and their perplexity without start tokens.

    No export format can express start tokens, so what they are worth must be known; the scored tokens
    include what that costs, those of the history's last line do not.
    """
    found = algorithm.best
    if not math.isfinite(found.loss):
        raise ValueError(f"none of {recorder.count} candidates has a finite perplexity")
    exported = recorder.without_start_tokens(found.individual, algorithm.iteration)
    facts: dict[str, str | int | float] = {
        **provenance,
        "perplexity": perplexity(found.loss),
        "perplexity_without_start_tokens": exported,
        "num_candidates": len(recorder.individuals),
        "num_failed_candidates": len(recorder.failed),
        "scored_tokens": recorder.scored_tokens,
    }
    best = recorder.problem.compose(found.individual)
    return best.model_copy(update={"provenance": facts})
