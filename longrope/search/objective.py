"""Perplexity of candidate factors on fixed texts, through the score memory."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data.token_store import TokenStore
from longrope.data.tokenizers import num_unscored
from longrope.rope.factors import RopeFactors
from longrope.runtime import Input
from longrope.search.needles import plant
from longrope.search.workers.pools import Pool
from longrope.search.workers.units import Score, Text, Unit
from longrope.settings.nodes import ReadjustNode, SearchNode
from longrope.store.score_memory import ScoreMemory

LOGGER = logging.getLogger(__name__)


def draw_texts(
    store: TokenStore,
    *,
    length: int,
    count: int,
    seed: int,
    what: str,
    begin: Sequence[int] = (),
    overlapping: bool = False,
) -> list[Text]:
    """Return `count` random stretches, from different documents while there are any.

    Stretches of one document do not overlap, so there may be fewer than `count`. It is logged where they are
    of fewer documents.

    Args:
        store: documents.
        length: tokens of each stretch with those that it begins with.
        count: of stretches.
        seed: of the draws.
        what: names the documents in errors and in the log.
        begin: ids that every stretch begins with, before those of its document.
        overlapping: whether stretches that overlap, or are equal, make up the number.

    Raises:
        UserError: naming `what`, if no document is long enough.
    """
    length -= len(begin)
    generator = np.random.default_rng(seed)
    documents = generator.permutation(store.long_enough(length, what))[:count]
    lengths = store.lengths[documents]
    places = _apart(generator, lengths, length, count)
    num_apart = len(places)
    for missing in range(count - num_apart if overlapping else 0):
        which = missing % len(documents)
        places.append((which, int(generator.integers(0, lengths[which] - length + 1))))
    if count > len(documents):
        how = "none overlap" if len(places) == num_apart else "some may overlap"
        LOGGER.warning(
            "%s: %d asked for; scored stretches: %d, of documents: %d; %s",
            *(what, count, len(places), len(documents), how),
        )
    return [stretch(store, int(documents[which]), n, n + length, begin) for which, n in places]


def _turns(rooms: Sequence[int], count: int) -> list[tuple[int, int]]:
    """Return at most `count` pairs of turn and document, in rounds over all documents.

    A document has as many turns as it has room for stretches.
    """
    turns = [(turn, which) for which, room in enumerate(rooms) for turn in range(min(room, count))]
    return sorted(turns)[:count]


def _apart(
    generator: np.random.Generator, lengths: NDArray[np.int64], length: int, count: int
) -> list[tuple[int, int]]:
    """Return at most `count` pairs of document and first token of random stretches that do not overlap."""
    turns = _turns((lengths // length).tolist(), count)
    numbers = np.bincount([which for _, which in turns], minlength=len(lengths))
    firsts = []
    for size, number in zip(lengths, numbers, strict=True):
        gaps = np.sort(generator.integers(0, size - number * length + 1, size=number))
        firsts.append(gaps + np.arange(number) * length)
    return [(which, int(firsts[which][turn])) for turn, which in turns]


def stretch(
    store: TokenStore, document: int, first: int, end: int, begin: Sequence[int] = ()
) -> Text:
    """Return tokens first..end of one document behind `begin`; every token with a predecessor counts."""
    key = {"document": document, "begin": first, "end": end}
    text = store.document(document, first, end)
    tokens = np.concatenate([np.array(begin, dtype=np.int64), text])
    return Text(tokens, key, scored_from=num_unscored(begin))


def objective_on(
    pool: Pool,
    tokens: Input,
    memory: ScoreMemory,
    *,
    length: int,
    count: int,
    seed: int,
    what: str,
    begin: Sequence[int],
    tokenizer: Input | None = None,
) -> "Objective":
    """Return the objective on stretches of a token store; arguments and errors of `draw_texts`.

    With a tokenizer, on the answers to keys planted in the stretches, which then may overlap.
    """
    store, needles = TokenStore(tokens.path), tokenizer is not None
    texts = draw_texts(
        store, length=length, count=count, seed=seed, what=what, begin=begin, overlapping=needles
    )
    if tokenizer is not None:
        texts = plant(texts, tokenizer.path, seed=seed, begin=begin)
    return Objective(pool, memory, texts)


def search_objective(
    pool: Pool,
    settings: SearchNode | ReadjustNode,
    tokens: Input,
    memory: ScoreMemory,
    *,
    length: int,
    begin: Sequence[int],
    tokenizer: Input | None,
) -> "Objective":
    """Return the objective that settings of a search ask for; errors of `draw_texts`."""
    search = settings.search
    return objective_on(
        pool,
        tokens,
        memory,
        length=length,
        count=search.num_documents,
        seed=settings.seed,
        what=f"search documents for length {length}",
        begin=begin,
        tokenizer=tokenizer if search.objective == "needle" else None,
    )


def _ignore(position: int) -> None:
    del position


class Objective:
    """Scores factors on the same texts; remembers every score."""

    def __init__(self, pool: Pool, memory: ScoreMemory, texts: Sequence[Text]) -> None:
        self._pool = pool
        self._memory = memory
        self._texts = texts

    @property
    def documents(self) -> tuple[int, ...]:
        """Indices of all documents."""
        return tuple(range(len(self._texts)))

    @property
    def counts(self) -> dict[str, int]:
        """Number of texts that are scored, and of the documents that they are stretches of."""
        documents = {text.key["document"] for text in self._texts}
        return {"num_documents": len(documents), "num_texts": len(self._texts)}

    def tokens(self, document: int) -> int:
        """Return the tokens of one document's text."""
        return len(self._texts[document].tokens)

    def unit(self, factors: RopeFactors, document: int, gradient: bool = False) -> Unit:
        """Return the unit that scores factors on one document."""
        return Unit(factors, self._texts[document], gradient)

    def scores(self, units: Sequence[Unit], done: Callable[[int], None] = _ignore) -> list[Score]:
        """Return the scores of units; `done` is called with each position once its score is remembered.

        Of equal units one is scored, and `done` is called for it alone.
        """
        names = [json.dumps(_key(unit), sort_keys=True) for unit in units]
        distinct = {name: position for position, name in enumerate(names)}
        by_name: dict[str, Score] = {}
        for name, position in distinct.items():
            if (score := self._remembered(units[position])) is not None:
                by_name[name] = score
                done(position)
        missing = [name for name in distinct if name not in by_name]
        for number, score in self._pool.scores([units[distinct[name]] for name in missing]):
            name = missing[number]
            by_name[name] = score
            self._remember(units[distinct[name]], score)
            done(distinct[name])
        return [by_name[name] for name in names]

    def perplexities(self, candidates: Sequence[RopeFactors]) -> list[float]:
        """Return exp(mean of the documents' losses) of each; inf where it is not finite."""
        units = [self.unit(factors, d) for factors in candidates for d in self.documents]
        losses = [score.loss for score in self.scores(units)]
        rows = np.reshape(losses, (len(candidates), len(self.documents)))
        return [perplexity(float(np.mean(row))) for row in rows]

    def perplexity(self, factors: RopeFactors) -> float:
        """Return exp(mean of the documents' losses); inf if it is not finite."""
        return self.perplexities([factors])[0]

    def _remembered(self, unit: Unit) -> Score | None:
        known = self._memory.get(_key(unit))
        if known is None:
            return None
        nll, num_tokens, *slopes = known
        gradient = tuple(map(float, slopes)) if unit.gradient else None
        return Score(float(nll), int(num_tokens), gradient)

    def _remember(self, unit: Unit, score: Score) -> None:
        # A NaN is remembered as text: JSON has none, and scoring it again would not help.
        numbers = [score.nll, score.num_tokens, *(score.gradient or ())]
        written = [number if math.isfinite(number) else "nan" for number in numbers]
        self._memory.put(_key(unit), written)


def _key(unit: Unit) -> Mapping[str, Any]:
    """Return a unit's key in the score memory."""
    derivatives = {"gradient": "factors, attention scale"} if unit.gradient else {}
    return {**unit.text.key, **unit.factors.identity(), **derivatives}


def perplexity(loss: float) -> float:
    """Return exp(loss in nats per token), inf where that is not finite."""
    return math.exp(loss) if math.isfinite(loss) and loss < 700 else math.inf
