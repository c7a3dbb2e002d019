"""The worker of a search that holds a model."""

from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedModel

from longrope.scored import load_for_scoring
from longrope.scoring import token_nlls
from longrope.search.backward import nll_gradient
from longrope.search.workers import Score, Scorer, Unit


class ModelWorker:
    """Scores units with a model that it loads once, when its first unit comes."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, on the first GPU that this process sees, if any."""
        scorer = self._scorer
        return load_for_scoring(
            scorer.folder,
            dtype=scorer.dtype,
            full_attention=scorer.full_attention,
            rope_scaling=scorer.rope_scaling,
        )

    def score(self, unit: Unit) -> Score:
        """Return the score of a unit; the same in every worker, whatever it scored before."""
        if unit.gradient:
            return self._gradient(unit)
        nlls = token_nlls(
            self.model,
            torch.tensor(unit.text.tokens),
            factors=unit.factors,
            chunk_length=self._scorer.chunk_length,
        )
        counted = nlls[unit.text.scored_from - 1 :]
        return Score(float(counted.astype(np.float64).sum()), len(counted))

    def _gradient(self, unit: Unit) -> Score:
        """Return the score of a unit with its gradient."""
        found = nll_gradient(
            self.model,
            torch.tensor(unit.text.tokens),
            factors=unit.factors,
            first=unit.text.scored_from,
        )
        slopes = (*found.log_factors.tolist(), found.log_attention_scale)
        return Score(found.nll, unit.text.num_scored, slopes)
