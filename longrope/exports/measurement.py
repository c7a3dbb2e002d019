"""Perplexity of an export, as its engine runs it, against the factors as they were searched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from longrope.data.documents import Documents
from longrope.data.token_store import encode
from longrope.data.tokenizers import begin_tokens, load_encoder
from longrope.errors import UserError
from longrope.library import perplexity
from longrope.models.loading import ConfigChanges
from longrope.models.score_context import load_for_scoring
from longrope.rope.factors import FactorTable


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Perplexity at one length."""

    length: int
    """tokens of each text that are scored, from its start"""
    num_texts: int
    searched: float
    """under the factors as they were searched"""
    exported: float
    """under the factors that an engine applies"""

    @property
    def relative(self) -> float:
        """Excess of the exported perplexity, as a share of the searched one."""
        return self.exported / self.searched - 1


def measure(
    model: Path,
    searched: FactorTable,
    exported: FactorTable,
    *,
    texts: Sequence[Path],
    lengths: Sequence[int],
    dtype: str,
    **changes: Unpack[ConfigChanges],
) -> list[Gap]:
    """Measure both tables on the first tokens of texts.

    Args:
        model: folder of the model.
        searched: factors as they were searched.
        exported: factors as the engine applies them.
        texts: files of documents; those too short for a length are left out there.
        lengths: to measure at, tokens.
        dtype: name of a torch dtype.
        **changes: of its configuration, as `load_model` takes them.

    Raises:
        UserError: if a file cannot be read, or none of the texts is long enough.
    """
    documents = _encoded(model, texts)
    begin = begin_tokens(model, "auto")
    chosen = {length: _long_enough(documents, length, len(begin)) for length in lengths}
    loaded = load_for_scoring(model, dtype=dtype, **changes)
    gaps = []
    for length, long_enough in chosen.items():
        sets = [table.at(length) for table in (searched, exported)]
        values = [
            perplexity(loaded, long_enough, factors, length=length, begin=begin)
            for factors in sets[: 1 if sets[0].identity() == sets[1].identity() else 2]
        ]
        gaps.append(
            Gap(
                length=length,
                num_texts=len(long_enough),
                searched=values[0],
                exported=values[-1],
            )
        )
    return gaps


def _encoded(model: Path, texts: Sequence[Path]) -> list[NDArray[np.int64]]:
    encoder = load_encoder(model)
    documents = Documents(list(texts), "text")
    return [np.concatenate([*encode(encoder, document.text)]) for document in documents]


def _long_enough(
    documents: Sequence[NDArray[np.int64]], length: int, num_begin: int
) -> list[NDArray[np.int64]]:
    chosen = [ids for ids in documents if len(ids) + num_begin >= length]
    if not chosen:
        longest = max((len(ids) for ids in documents), default=0)
        raise UserError(
            f"none of the texts has {length} tokens (the longest has {longest}); give --texts that are "
            "as long as the window, or none."
        )
    return chosen
