"""Perplexity of long documents by length, under two protocols.

window   one window of exactly L tokens a document, from its start: context grows from 1 to L. The
         published Proof-pile tables were made so (`--truncate`).
sliding  windows of L tokens moved by a stride; every token is scored once, the first window whole.
Sums of token losses are kept per document; whoever reads them divides once.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from longrope.corpora import TokenStore
from longrope.factors import RopeFactors
from longrope.memory import ScoreMemory
from longrope.runtime import Inputs, Runtime, Settings
from longrope.scored import score_memory
from longrope.scoring import token_nlls
from longrope.subject import Subject


@dataclass(frozen=True)
class Window:
    """Tokens begin..end, of which the last `num_scored` are scored."""

    begin: int
    end: int
    num_scored: int


def rolling_windows(num_tokens: int, *, window_length: int, stride: int) -> Iterator[Window]:
    """Yield windows that score every token but the first exactly once."""
    end = min(window_length, num_tokens)
    yield Window(0, end, end - 1)
    while end < num_tokens:
        scored = min(stride, num_tokens - end)
        end += scored
        yield Window(max(0, end - window_length), end, scored)


def evaluate(
    subject: Subject, settings: Settings, inputs: Inputs, runtime: Runtime
) -> list[dict[str, Any]]:
    """Return one row per corpus and length, with the summed losses of each document."""
    rows = []
    for corpus, lengths in settings["lengths"].items():
        tokens = inputs[f"tokens-{corpus}"]
        memory = score_memory(inputs["model"], tokens, settings["dtype"], runtime)
        scorer = _Scorer(subject, TokenStore(tokens.path), memory, settings, runtime)
        rows += scorer.rows(corpus, lengths)
    return rows


class _Scorer:
    """Scores the documents of one corpus."""

    def __init__(
        self,
        subject: Subject,
        store: TokenStore,
        memory: ScoreMemory,
        settings: Settings,
        runtime: Runtime,
    ) -> None:
        self.subject = subject
        self.store = store
        self.memory = memory
        self.settings = settings
        self.chunk_length: int = runtime.options["chunk_length"]
        self.skip: int = settings["skip_tokens"]

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
        enough = self.store.long_enough(self.skip + length, what)
        first = [d for d in enough if self.store.lengths[d] >= self.skip + longest]
        rest = [d for d in enough if self.store.lengths[d] < self.skip + longest]
        return (first + rest)[: self._count(corpus)]

    def _count(self, corpus: str) -> int:
        wanted = self.settings["num_documents"]
        return int(wanted[corpus] if isinstance(wanted, dict) else wanted)

    def _scores(self, document: int, lengths: Sequence[int]) -> dict[int, tuple[float, int]]:
        """Return (summed NLL, scored tokens) of one document by length."""
        if self.settings["protocol"] == "sliding":
            return {length: self._sliding(document, length) for length in lengths}
        return {length: (self._prefix(document, length, lengths), length - 1) for length in lengths}

    def _prefix(self, document: int, length: int, lengths: Sequence[int]) -> float:
        """Return the NLL of the first `length` tokens after the skipped ones.

        Under the same factors a shorter window's losses are the first ones of a longer window, so one
        pass over the longest answers all of them.
        """
        factors = self.subject.factors_at(length)

        def key(tokens: int) -> dict[str, object]:
            return self._key(document, self.skip, self.skip + tokens, tokens - 1, factors)

        known = self.memory.get(key(length))
        if known is None:
            identity = factors.identity()
            alike = [n for n in lengths if self.subject.factors_at(n).identity() == identity]
            same = [n for n in alike if self.memory.get(key(n)) is None]
            nlls = self._nlls(document, self.skip, self.skip + max(same), factors)
            for other in same:
                self.memory.put(key(other), float(nlls[: other - 1].sum()))
            known = float(nlls[: length - 1].sum())
        return float(known)

    def _sliding(self, document: int, length: int) -> tuple[float, int]:
        factors = self.subject.factors_at(length)
        available = int(self.store.lengths[document]) - self.skip
        num_tokens = min(available, self.settings["max_tokens"] or available)
        windows = rolling_windows(num_tokens, window_length=length, stride=self.settings["stride"])
        total = sum(self._window(document, window, factors) for window in windows)
        return total, num_tokens - 1

    def _window(self, document: int, window: Window, factors: RopeFactors) -> float:
        begin, end = self.skip + window.begin, self.skip + window.end
        key = self._key(document, begin, end, window.num_scored, factors)
        known = self.memory.get(key)
        if known is None:
            nlls = self._nlls(document, begin, end, factors)
            known = float(nlls[-window.num_scored :].sum())
            self.memory.put(key, known)
        return float(known)

    def _key(
        self, document: int, begin: int, end: int, num_scored: int, factors: RopeFactors
    ) -> dict[str, object]:
        place: dict[str, object] = {"document": document, "begin": begin, "end": end}
        # A whole stretch has the key that the search gives it, so that their scores are shared.
        scored = {} if num_scored == end - begin - 1 else {"num_scored": num_scored}
        return place | scored | factors.identity()

    def _nlls(
        self, document: int, begin: int, end: int, factors: RopeFactors
    ) -> NDArray[np.float64]:
        tokens = torch.from_numpy(self.store.document(document, begin, end))
        nlls = token_nlls(
            self.subject.model, tokens, factors=factors, chunk_length=self.chunk_length
        )
        return nlls.astype(np.float64)
