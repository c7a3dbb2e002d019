"""Perplexity of long documents by length, under two protocols.

window   one window of exactly L tokens a document, from its start: context grows from 1 to L. The
         published Proof-pile tables were made so (`--truncate`).
sliding  windows of L tokens moved by a stride; every token is scored once, the first window whole.
The tokens that a window begins with (BOS) count among its L; with them the first token of text is scored too.
Sums of token losses are kept per document; whoever reads them divides once.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longrope.data.token_store import TokenStore
from longrope.data.tokenizers import num_unscored
from longrope.errors import UserError
from longrope.models.evaluated_model import EvaluatedModel
from longrope.models.score_context import score_memory
from longrope.models.scoring import token_nlls
from longrope.rope.factors import RopeFactors
from longrope.runtime import Inputs, Runtime
from longrope.settings.nodes import EvaluateNode
from longrope.settings.tasks import PerplexityTask
from longrope.store.score_memory import ScoreMemory

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """Tokens begin..end of a text, of which the last `num_scored` are scored."""

    begin: int
    end: int
    num_scored: int


def rolling_windows(
    num_tokens: int, *, window_length: int, stride: int, num_begin: int = 0
) -> Iterator[Window]:
    """Yield windows that score every token exactly once, but a first one with nothing before it.

    Args:
        num_tokens: of the text.
        window_length: tokens of a window, with those that it begins with.
        stride: tokens scored per window; as many as a window can score if it is longer than that.
        num_begin: tokens that every window begins with, before those of the text.

    Raises:
        UserError: if a window has no room for a token to score.
    """
    room = window_length - num_begin
    unscored = 0 if num_begin else 1
    stride = min(stride, room - unscored)
    if stride < 1:
        raise UserError(
            f"perplexity windows of {window_length} tokens have none to score behind what they begin with; "
            "ask for longer ones in evaluate.perplexity.lengths."
        )
    end = min(room, num_tokens)
    yield Window(0, end, end - unscored)
    while end < num_tokens:
        num_new = min(stride, num_tokens - end)
        end += num_new
        yield Window(max(0, end - room), end, num_new)


def evaluate(
    evaluated: EvaluatedModel, settings: EvaluateNode, inputs: Inputs, runtime: Runtime
) -> list[dict[str, Any]]:
    """Return one row per corpus and length, with the summed losses of each document."""
    task = settings.task
    assert isinstance(task, PerplexityTask)
    rows = []
    for corpus, lengths in task.lengths.items():
        tokens = inputs[f"tokens-{corpus}"]
        memory = score_memory(
            inputs["model"], tokens, settings.dtype, runtime, begin=evaluated.begin
        )
        scorer = _Scorer(evaluated, TokenStore(tokens.path), memory, task, runtime)
        rows += scorer.rows(corpus, lengths)
    return rows


Score = tuple[float, int]
"""nats, summed over the scored tokens, and how many these are"""


def _summed(nlls: NDArray[np.float64]) -> Score:
    return float(nlls.sum()), len(nlls)


class _Scorer:
    """Scores the documents of one corpus."""

    def __init__(
        self,
        evaluated: EvaluatedModel,
        store: TokenStore,
        memory: ScoreMemory,
        task: PerplexityTask,
        runtime: Runtime,
    ) -> None:
        self.evaluated = evaluated
        self.store = store
        self.memory = memory
        self.task = task
        self.chunk_length: int = runtime.options.chunk_length
        self.skip: int = task.skip_tokens
        self.num_begin = len(evaluated.begin)

    def rows(self, corpus: str, lengths: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of one corpus, one per length."""
        chosen = {length: self._chosen(corpus, length, max(lengths)) for length in lengths}
        scores = {
            document: self._scores(document, [n for n in lengths if document in chosen[n]])
            for document in sorted(set().union(*chosen.values()))
        }
        return [
            {
                "corpus": corpus,
                "length": length,
                "documents": [
                    {"name": self.store.names[d], "nll": nll, "tokens": count}
                    for d in sorted(chosen[length])
                    for nll, count in [scores[d][length]]
                ],
            }
            for length in lengths
        ]

    def _chosen(self, corpus: str, length: int, longest: int) -> list[int]:
        """Return the documents scored at a length: the same at all lengths while there are enough.

        Those that hold the longest length come first; a shorter length is filled up with documents
        that hold at least it.
        """
        what = f"perplexity documents of corpus {corpus}"
        skip = self.skip - self.num_begin
        enough = self.store.long_enough(skip + length, what)
        first = [d for d in enough if self.store.lengths[d] >= skip + longest]
        rest = [d for d in enough if self.store.lengths[d] < skip + longest]
        count = self.task.num_documents[corpus]
        if len(enough) < count:
            LOGGER.warning(
                "%s: %d asked for; %d have %d tokens", what, count, len(enough), skip + length
            )
        return (first + rest)[:count]

    def _scores(self, document: int, lengths: Sequence[int]) -> dict[int, Score]:
        """Return the score of one document by length."""
        if self.task.protocol == "sliding":
            return {length: self._sliding(document, length) for length in lengths}
        return {length: self._prefix(document, length, lengths) for length in lengths}

    def _prefix(self, document: int, length: int, lengths: Sequence[int]) -> Score:
        """Return the score of the first window of `length` tokens after the skipped ones.

        Under the same factors a shorter window's losses are the first ones of a longer window, so one
        pass over the longest answers all of them.
        """
        factors = self.evaluated.factors_at(length)
        known = self._known(document, self._first(length), factors)
        if known is None:
            identity = factors.identity()
            alike = [n for n in lengths if self.evaluated.factors_at(n).identity() == identity]
            same = [n for n in alike if self._known(document, self._first(n), factors) is None]
            nlls = self._nlls(document, self._first(max(same)), factors)
            scores = {n: _summed(nlls[: self._first(n).num_scored]) for n in same}
            for other, score in scores.items():
                self.memory.put(self._key(document, self._first(other), factors), score)
            known = scores[length]
        return known

    def _first(self, length: int) -> Window:
        """Return the first window of a document."""
        num_tokens = length - self.num_begin
        windows = rolling_windows(
            num_tokens, window_length=length, stride=length, num_begin=self.num_begin
        )
        return next(windows)

    def _sliding(self, document: int, length: int) -> Score:
        factors = self.evaluated.factors_at(length)
        available = int(self.store.lengths[document]) - self.skip
        windows = rolling_windows(
            min(available, self.task.max_tokens or available),
            window_length=length,
            stride=self.task.stride,
            num_begin=self.num_begin,
        )
        scores = [self._window(document, window, factors) for window in windows]
        return sum(nll for nll, _ in scores), sum(count for _, count in scores)

    def _window(self, document: int, window: Window, factors: RopeFactors) -> Score:
        known = self._known(document, window, factors)
        if known is None:
            known = _summed(self._nlls(document, window, factors)[-window.num_scored :])
            self.memory.put(self._key(document, window, factors), known)
        return known

    def _known(self, document: int, window: Window, factors: RopeFactors) -> Score | None:
        known = self.memory.get(self._key(document, window, factors))
        return None if known is None else (float(known[0]), int(known[1]))

    def _key(self, document: int, window: Window, factors: RopeFactors) -> dict[str, object]:
        begin, end = self.skip + window.begin, self.skip + window.end
        place: dict[str, object] = {"document": document, "begin": begin, "end": end}
        # A whole stretch has the key that the search gives it, so that their scores are shared.
        is_whole = window.num_scored == end - begin - (0 if self.num_begin else 1)
        part = {} if is_whole else {"num_scored": window.num_scored}
        return place | part | factors.identity()

    def _nlls(self, document: int, window: Window, factors: RopeFactors) -> NDArray[np.float64]:
        """Return the losses of the tokens of a window that have something before them."""
        begin, end = self.skip + window.begin, self.skip + window.end
        text = self.store.document(document, begin, end)
        tokens = np.concatenate([np.array(self.evaluated.begin, dtype=np.int64), text])
        nlls = token_nlls(
            self.evaluated.model,
            torch.from_numpy(tokens),
            factors=factors,
            chunk_length=self.chunk_length,
        )
        return nlls[num_unscored(self.evaluated.begin) - 1 :].astype(np.float64)
