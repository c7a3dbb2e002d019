"""One search from seeds to the best factors: ask, score, tell, and a history of every candidate."""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from longrope.data.tokenizers import bos_label
from longrope.rope.factors import RopeFactors
from longrope.search.algorithms.algorithm import Algorithm, Candidate, Loss
from longrope.search.algorithms.problem import Problem
from longrope.search.algorithms.registry import make
from longrope.search.algorithms.space import Individual
from longrope.search.objective import Objective, perplexity
from longrope.search.progress import Progress
from longrope.search.workers.units import Score
from longrope.settings.algorithms import GRADIENT_COST
from longrope.settings.nodes import ReadjustNode, SearchNode

LOGGER = logging.getLogger(__name__)


def search_provenance(settings: SearchNode | ReadjustNode) -> dict[str, str | int | float]:
    """Return the provenance of factors from a search."""
    search = settings.search
    facts: dict[str, str | int | float] = {
        "model": settings.model,
        "algorithm": search.algorithm.name,
        "seed": settings.seed,
    }
    return facts if search.objective == "perplexity" else {**facts, "objective": search.objective}


def run_search(
    settings: SearchNode | ReadjustNode,
    problem: Problem,
    objective: Objective,
    history: Path,
    *,
    begin: Sequence[int],
) -> RopeFactors:
    """Run the algorithm of the settings; arguments and errors as of `search`.

    `begin` are the ids that every text of the objective begins with, which the provenance tells.
    """
    chosen, num_documents = settings.search.algorithm, len(objective.documents)
    algorithm = make(problem, chosen, num_documents=num_documents, seed=settings.seed)
    facts = {**search_provenance(settings), "bos": bos_label(begin), **objective.counts}
    most = chosen.max_scorings(num_documents, len(problem.space.start_tokens))
    return search(problem, algorithm, objective, history, facts, max_scorings=most)


def search(
    problem: Problem,
    algorithm: Algorithm,
    objective: Objective,
    history: Path,
    provenance: Mapping[str, str | int | float],
    *,
    max_scorings: int | None = None,
) -> RopeFactors:
    """Run an algorithm and return the best factors; `history` gets one JSON line per candidate.

    `max_scorings` are the algorithm's, for the total of the progress bar, which has none without it.

    Raises:
        ValueError: if no candidate has a finite perplexity.
    """
    total = _most_tokens(objective, max_scorings)
    with history.open("w") as stream, Progress(total) as progress:
        recorder = _Recorder(problem, objective, stream, progress)
        while not algorithm.finished:
            candidates = algorithm.ask()
            scores = recorder.score(candidates, algorithm.iteration)
            losses = [[Loss(score.loss, score.mean_gradient) for score in row] for row in scores]
            algorithm.tell(candidates, losses)
            progress.show(recorder.count, recorder.best)
        return _with_provenance(algorithm, recorder, provenance)


def _most_tokens(objective: Objective, max_scorings: int | None) -> int | None:
    """Return the most tokens of some scorings and of the best candidate's without start tokens."""
    if max_scorings is None:
        return None
    longest = max(map(objective.tokens, objective.documents))
    return (max_scorings + len(objective.documents)) * longest


ScoreRequest = tuple[Individual, int, bool]
"""individual, document, and whether to compute the gradient; scored once"""


def _requests(candidate: Candidate) -> list[ScoreRequest]:
    return [(candidate.individual, d, candidate.gradient) for d in candidate.documents]


class _Recorder:
    """Scores candidates, counts their cost, and writes the history in the order of asking."""

    def __init__(
        self, problem: Problem, objective: Objective, stream: TextIO, progress: Progress
    ) -> None:
        self.problem = problem
        self.objective = objective
        self.stream = stream
        self.progress = progress
        self.count = 0
        self.best = math.inf
        """perplexity of the best candidate that was scored on all documents"""
        self.individuals: set[Individual] = set()
        self.failed: set[Individual] = set()
        self.scored_tokens = 0
        """of all that was scored; the same individual on the same document counts once"""
        self._counted: set[ScoreRequest] = set()

    def score(self, candidates: Sequence[Candidate], iteration: int) -> list[list[Score]]:
        """Return the scores of candidates by document; a loss that is not finite is inf."""
        scores = self._scores(candidates)
        for candidate, row in zip(candidates, scores, strict=True):
            self._record(iteration, candidate, row)
        return scores

    def without_start_tokens(self, individual: Individual) -> float:
        """Return an individual's perplexity without start tokens: counted, but no candidate."""
        exported = replace(individual, num_start_tokens=0)
        candidate = Candidate(exported, "export", self.objective.documents)
        (row,) = self._scores([candidate])
        self._spend(candidate)
        return _perplexity(row)

    def _scores(self, candidates: Sequence[Candidate]) -> list[list[Score]]:
        """Return scores by candidate and document, and show progress."""
        composed = {c.individual: self.problem.compose(c.individual) for c in candidates}
        requests = [request for c in candidates for request in _requests(c)]
        units = [
            self.objective.unit(composed[i], document, slope) for i, document, slope in requests
        ]
        new = set(requests) - self._counted

        def done(position: int) -> None:
            if (request := requests[position]) in new:
                new.remove(request)
                self.progress.count(self._cost([request]))

        received = iter(self.objective.scores(units, done))
        scores = [list(islice(received, len(c.documents))) for c in candidates]
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
        if candidate.documents == self.objective.documents:
            self.best = min(self.best, mean)
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
        """Count the tokens of requests that were not scored before."""
        new = set(_requests(candidate)) - self._counted
        self.scored_tokens += self._cost(new)
        self._counted |= new

    def _cost(self, requests: Iterable[ScoreRequest]) -> int:
        """Return the cost of requests in tokens."""
        return sum(
            (GRADIENT_COST if slope else 1) * self.objective.tokens(document)
            for _, document, slope in requests
        )


def _perplexity(scores: Sequence[Score]) -> float:
    """Return exp(mean loss over documents); inf where it is not finite."""
    return perplexity(float(np.mean([score.loss for score in scores])))


def _with_provenance(
    algorithm: Algorithm, recorder: _Recorder, provenance: Mapping[str, str | int | float]
) -> RopeFactors:
    """Return the best factors with their cost and their perplexity without start tokens.

    No export format can express start tokens, so the perplexity without them is recorded; the scored tokens
    include its cost, those of the history's last line do not.
    """
    result = algorithm.best
    if not math.isfinite(result.loss):
        raise ValueError(f"none of {recorder.count} candidates has a finite perplexity")
    exported = recorder.without_start_tokens(result.individual)
    facts: dict[str, str | int | float] = {
        **provenance,
        "perplexity": perplexity(result.loss),
        "perplexity_without_start_tokens": exported,
        "num_candidates": len(recorder.individuals),
        "num_failed_candidates": len(recorder.failed),
        "scored_tokens": recorder.scored_tokens,
    }
    best = recorder.problem.compose(result.individual)
    return best.model_copy(update={"provenance": facts})
