"""The progress bar of a search: tokens that are scored, with what is found so far."""

from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from longrope.search.workers import Unit


class Progress:
    """Shows tokens and the time left by tokens, candidates and the best perplexity."""

    def __init__(self) -> None:
        self._bar: Any = tqdm(desc="search", unit="token", unit_scale=True, mininterval=1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def begin(self, num_tokens: int, num_candidates: int, remaining: int) -> None:
        """Reckon that what remains costs as much a candidate as those of this iteration.

        Args:
            num_tokens: of this iteration, over all candidates and documents.
            num_candidates: of this iteration.
            remaining: candidates of this iteration and, by estimate, of those after it.
        """
        self._bar.total = self._bar.n + num_tokens * remaining // max(1, num_candidates)

    def scored(self, unit: Unit) -> None:
        """Count a unit whose score is known."""
        self._bar.update(len(unit.text.tokens))

    def show(self, num_candidates: int, best: float) -> None:
        """Show how many candidates were scored and the best perplexity among them."""
        self._bar.set_postfix_str(f"{num_candidates} candidates, best perplexity {best:.3f}")
