"""The progress bar of a search: tokens as the search counts them, with the best perplexity so far."""

from typing import Any, Self

from tqdm import tqdm


class Progress:
    """Shows tokens and the time left by tokens, candidates and the best perplexity."""

    def __init__(self) -> None:
        self._bar: Any = tqdm(desc="search", unit="token", unit_scale=True, mininterval=1.0)
        self._iteration = -1
        self._asked = 0
        """tokens of this iteration"""
        self._num_candidates = 1
        self._dearness = 0.0
        """tokens per candidate of the iteration before"""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None:
            self._bar.total = self._bar.n
        self._bar.close()

    def begin(self, iteration: int, num_tokens: int, num_candidates: int, remaining: int) -> None:
        """Estimate the remaining cost from the cost per candidate of this iteration or the one before.

        The larger of the two estimates is used, since some iterations score few documents.

        Args:
            iteration: from 0; the check without start tokens is part of the last one.
            num_tokens: that are asked for now, and were not before.
            num_candidates: that are asked for now.
            remaining: candidates of this iteration and, by estimate, of those after it.
        """
        if iteration != self._iteration:
            self._dearness = self._asked / self._num_candidates
            self._iteration, self._asked, self._num_candidates = iteration, 0, num_candidates
        before = self._bar.n - self._asked
        self._asked += num_tokens
        dearness = max(self._dearness, self._asked / self._num_candidates)
        self._bar.total = before + max(self._asked, round(dearness * remaining))

    def count(self, num_tokens: int) -> None:
        """Count tokens that were not scored before and are now."""
        self._bar.update(num_tokens)

    def show(self, num_candidates: int, best: float) -> None:
        """Show how many candidates were scored and the best perplexity among them."""
        self._bar.set_postfix_str(f"{num_candidates} candidates, best perplexity {best:.3f}")
