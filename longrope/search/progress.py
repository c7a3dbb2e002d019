"""The progress bar of a search: tokens as the search counts them, with the best comparable perplexity."""

import math
from typing import Any, Self

from tqdm import tqdm


class Progress:
    """Shows tokens and the time left by tokens, candidates and the best perplexity on all documents.

    The total is the most that the search can score and never changes. A search that scores less, since
    candidates came to the same factors, skips the rest at its end.
    """

    def __init__(self, total: int | None = None) -> None:
        self._bar: Any = tqdm(
            desc="search", unit="token", unit_scale=True, mininterval=1.0, total=total
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if error is None and self._bar.total is not None:
            self._bar.update(self._bar.total - self._bar.n)
        self._bar.close()

    def count(self, num_tokens: int) -> None:
        """Count tokens that were not scored before and are now, up to the total."""
        left = math.inf if self._bar.total is None else self._bar.total - self._bar.n
        self._bar.update(min(num_tokens, left))

    def show(self, num_candidates: int, best: float) -> None:
        """Show how many candidates were scored, and the best perplexity on all documents if there is one."""
        text = f"{num_candidates} candidates"
        if math.isfinite(best):
            text += f", best perplexity on all documents {best:.3f}"
        self._bar.set_postfix_str(text)
