"""Token stores: texts encoded in spans into one flat memory-mapped array with offsets and names.

Long documents never become one Python list.
"""

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longrope.data.documents import NamedText
from longrope.data.tokenizers import Encoder, encode_plain
from longrope.errors import UserError

SPAN_CHARACTERS = 100_000
OVERLAP_CHARACTERS = 2_000


# Encoding -----------------------------------------------------------------------------------------


Tokens = tuple[NDArray[np.int64], NDArray[np.int64]]
"""ids, and the character at which each token begins"""


def encode(encoder: Encoder, text: str) -> Iterator[NDArray[np.int64]]:
    """Yield the tokens of one text in arrays that join to the encoding of the whole.

    Spans overlap; two neighbours are joined in the middle of the overlap, where neither can see an end
    of its span. Where they disagree even there, as inside an endless word, they become one span.
    """
    step = SPAN_CHARACTERS - OVERLAP_CHARACTERS
    starts = range(0, max(1, len(text) - OVERLAP_CHARACTERS), step)
    begin, held_start = 0, 0
    held: Tokens | None = None
    for first in range(0, len(starts), 16):
        group = starts[first : first + 16]
        spans = [text[start : start + SPAN_CHARACTERS] for start in group]
        for start, encoding in zip(group, encode_plain(encoder, spans), strict=True):
            span = _tokens(encoding, start)
            if held is not None:
                cut = _join(held, span, start + OVERLAP_CHARACTERS // 2)
                if cut is None:
                    both = text[held_start : start + SPAN_CHARACTERS]
                    (encoding,) = encode_plain(encoder, [both])
                    held = _tokens(encoding, held_start)
                    continue
                yield held[0][(held[1] >= begin) & (held[1] < cut)]
                begin = cut
            held, held_start = span, start
    if held is not None:
        yield held[0][held[1] >= begin]


def _tokens(encoding: Any, start: int) -> Tokens:
    at = np.array([offset[0] for offset in encoding.offsets], dtype=np.int64) + start
    return np.array(encoding.ids, dtype=np.int64), at


def _join(left: Tokens, right: Tokens, middle: int) -> int | None:
    """Return the first character after `middle` where a token begins, None if the spans differ there."""
    margin = OVERLAP_CHARACTERS // 4
    near = [(at >= middle - margin) & (at < middle + margin) for _, at in (left, right)]
    if not all(np.array_equal(a[near[0]], b[near[1]]) for a, b in zip(left, right, strict=True)):
        return None
    boundaries = left[1][near[0] & (left[1] >= middle)]
    return int(boundaries[0]) if len(boundaries) else None


# Token stores -------------------------------------------------------------------------------------


class TokenStore:
    """Documents as token ids: `document(i)` is a view of a memory-mapped flat array."""

    def __init__(self, folder: Path) -> None:
        self._meta = json.loads((folder / "tokens.json").read_text())
        self.names: list[str] = self._meta["names"]
        self.offsets: NDArray[np.int64] = np.load(folder / "offsets.npy")
        self._flat = np.memmap(folder / "tokens.bin", dtype=self._meta["dtype"], mode="r")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, shape (number of documents,)."""
        return np.diff(self.offsets)

    def document(self, index: int, begin: int = 0, end: int | None = None) -> NDArray[np.int64]:
        """Return tokens begin..end of one document as int64."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        stop = stop if end is None else min(stop, start + end)
        return np.asarray(self._flat[start + begin : stop], dtype=np.int64)

    def long_enough(self, length: int, what: str) -> list[int]:
        """Return the documents of at least `length` tokens; UserError, naming `what`, if none is."""
        indices = np.flatnonzero(self.lengths >= length).tolist()
        if not indices:
            raise UserError(
                f"{what}: no document has {length} tokens, the longest has {self.lengths.max()}; "
                "ask for shorter lengths or give the corpus longer documents."
            )
        return [int(index) for index in indices]


def write_store(
    folder: Path,
    documents: Iterable[NamedText],
    encoder: Encoder,
    vocabulary_size: int,
    *,
    join_to: int | None = None,
) -> None:
    """Encode documents one after the other into a token store.

    With `join_to`, neighbours are joined until they have so many tokens; a rest too short is dropped.

    Raises:
        UserError: if there is no document at all.
    """
    encoded = ((document.name, encode(encoder, document.text)) for document in documents)
    write_tokens(folder, encoded, vocabulary_size, join_to=join_to)


def write_tokens(
    folder: Path,
    documents: Iterable[tuple[str, Iterable[NDArray[np.int64]]]],
    vocabulary_size: int,
    *,
    join_to: int | None = None,
) -> None:
    """Write documents given as tokens: names, and arrays that join to each; else as `write_store`."""
    dtype = np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.uint32)
    index = _Index(join_to)
    with (folder / "tokens.bin").open("wb") as stream:
        for name, arrays in documents:
            count = 0
            for tokens in arrays:
                stream.write(tokens.astype(dtype).tobytes())
                count += len(tokens)
            index.add(name, count)
    if index.offsets[-1] == 0:
        raise UserError(
            "the corpus has no documents, no tokens, or none of the length to join to; check it."
        )
    np.save(folder / "offsets.npy", np.array(index.offsets, dtype=np.int64))
    meta = {"dtype": dtype.name, "names": index.names, "num_tokens": index.offsets[-1]}
    (folder / "tokens.json").write_text(json.dumps(meta, indent=1) + "\n")


class _Index:
    """Names and offsets of the documents of a store while it is written."""

    def __init__(self, join_to: int | None) -> None:
        self.names: list[str] = []
        self.offsets = [0]
        self._join_to = join_to
        self._open: list[str] = []
        self._pending = 0

    def add(self, name: str, count: int) -> None:
        """Close a document here, unless the open one is still shorter than `join_to`."""
        self._open.append(name)
        self._pending += count
        if self._join_to is None or self._pending >= self._join_to:
            self.names.append(" + ".join(self._open))
            self.offsets.append(self.offsets[-1] + self._pending)
            self._open, self._pending = [], 0
