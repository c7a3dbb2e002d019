"""Perplexity of candidate factors on fixed stretches of documents, through the score memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from longrope.corpora import TokenStore
from longrope.factors import RopeFactors
from longrope.memory import ScoreMemory
from longrope.runtime import Input, Runtime
from longrope.scoring import token_nlls


@dataclass(frozen=True)
class Stretch:
    """Tokens begin..end of one document."""

    document: int
    begin: int
    end: int


def draw_stretches(
    store: TokenStore, *, length: int, count: int, seed: int, what: str
) -> list[Stretch]:
    """Return `count` random stretches of `length` tokens, from different documents while there are any.

    Raises:
        UserError: naming `what`, if no document has `length` tokens.
    """
    generator = np.random.default_rng(seed)
    documents = generator.permutation(store.long_enough(length, what))
    chosen = [int(documents[index % len(documents)]) for index in range(count)]
    begins = [int(generator.integers(0, store.lengths[d] - length + 1)) for d in chosen]
    return [Stretch(d, b, b + length) for d, b in zip(chosen, begins, strict=True)]


def objective_on(
    model: PreTrainedModel,
    tokens: Input,
    memory: ScoreMemory,
    runtime: Runtime,
    *,
    length: int,
    count: int,
    seed: int,
    what: str,
) -> "Objective":
    """Return the objective on stretches of a token store; arguments and errors of `draw_stretches`."""
    store = TokenStore(tokens.path)
    stretches = draw_stretches(store, length=length, count=count, seed=seed, what=what)
    return Objective(model, store, memory, stretches, runtime.options["chunk_length"])


class Objective:
    """Scores factors on the same stretches; remembers every score."""

    def __init__(
        self,
        model: PreTrainedModel,
        store: TokenStore,
        memory: ScoreMemory,
        stretches: Sequence[Stretch],
        chunk_length: int,
    ) -> None:
        self._model = model
        self._store = store
        self._memory = memory
        self._stretches = stretches
        self._chunk_length = chunk_length

    def tokens(self, document: int) -> int:
        """Return the tokens of one document's stretch."""
        return self._stretches[document].end - self._stretches[document].begin

    def loss(self, factors: RopeFactors, document: int) -> float:
        """Return nats per predicted token of one document; inf if it is not finite."""
        mean = self._nll(factors, self._stretches[document]) / (self.tokens(document) - 1)
        return mean if math.isfinite(mean) else math.inf

    def perplexity(self, factors: RopeFactors) -> float:
        """Return exp(mean loss) over all documents, which are of one length; inf if not finite."""
        losses = [self.loss(factors, document) for document in range(len(self._stretches))]
        return perplexity(float(np.mean(losses)))

    def _nll(self, factors: RopeFactors, stretch: Stretch) -> float:
        key = {
            "document": stretch.document,
            "begin": stretch.begin,
            "end": stretch.end,
            **factors.identity(),
        }
        known = self._memory.get(key)
        if known is None:
            tokens = self._store.document(stretch.document, stretch.begin, stretch.end)
            nlls = token_nlls(
                self._model,
                torch.from_numpy(tokens),
                factors=factors,
                chunk_length=self._chunk_length,
            )
            # A NaN is remembered as text: JSON has none, and scoring it again would not help.
            total = float(nlls.astype(np.float64).sum())
            known = total if math.isfinite(total) else "nan"
            self._memory.put(key, known)
        return float(known)


def perplexity(loss: float) -> float:
    """Return exp(loss in nats per token), inf where that is not finite."""
    return math.exp(loss) if math.isfinite(loss) and loss < 700 else math.inf
