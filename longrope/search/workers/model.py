"""The worker of a search that holds a model."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from transformers import PreTrainedModel

from longrope.models.gradient import nll_gradient
from longrope.models.scoring import token_nlls
from longrope.search.workers.units import Score, Unit


class ModelWorker:
    """Scores units with a model that it gets once, when its first unit comes."""

    def __init__(self, load: Callable[[], PreTrainedModel], *, chunk_length: int) -> None:
        self._load = load
        self._chunk_length = chunk_length

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, on the device that it is to score on."""
        return self._load()

    def score(self, unit: Unit) -> Score:
        """Return the score of a unit; the same in every worker, whatever it scored before."""
        if unit.gradient:
            return self._gradient(unit)
        nlls = token_nlls(
            self.model,
            torch.tensor(unit.text.tokens),
            factors=unit.factors,
            chunk_length=self._chunk_length,
        )
        counted = nlls[unit.text.scored_from - 1 :]
        return Score(float(counted.astype(np.float64).sum()), len(counted))

    def _gradient(self, unit: Unit) -> Score:
        """Return the score of a unit with its gradient."""
        gradient = nll_gradient(
            self.model,
            torch.tensor(unit.text.tokens),
            factors=unit.factors,
            first=unit.text.scored_from,
        )
        slopes = (*gradient.log_factors.tolist(), gradient.log_attention_scale)
        return Score(gradient.nll, unit.text.num_scored, slopes)
