"""Rows that a model is fine-tuned on: text of documents and passkey prompts, optionally at other positions.

A row has `input_ids` and `labels`, shape (T,). One whose tokens stand elsewhere than at 0, 1, 2, ... also has
`positions`, shape (T,), which are 0 where a piece begins and nowhere else, and `piece_length`: 0, or the
window that the pieces it is made of fit.

Every row is a function of the seed and its place in the run, so data order does not depend on the number
of devices and a resumed run sees what an uninterrupted one does.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from longrope.data.prompts import build_prompt, classic_filler, draw_key, filler_of
from longrope.data.token_store import TokenStore
from longrope.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Specification of the training rows."""

    text_length: int
    """tokens per row"""
    num_rows: int
    """rows of the whole run: steps * batch size"""
    passkey_fraction: float
    """fraction of rows that are passkey prompts, half in the classic filler, half in document text"""
    begin: tuple[int, ...]
    """ids that every row, every piece of one and every prompt begins with: BOS, or none"""
    end_token: int
    """EOS, last of every chunk of text, or of every document where they are packed"""
    seed: int
    batch_size: int = 1
    """rows of an optimizer step; documents that do not fill as many are refused"""
    packed: bool = False
    """whether rows are cut from all documents one after the other, instead of from each long one alone"""


class _Whole:
    """Rows of one document each, BOS first and EOS last; documents too short for one are left out."""

    def __init__(self, store: TokenStore, mix: Mix) -> None:
        self._store = store
        self._mix = mix
        self._body = body = mix.text_length - len(mix.begin) - 1
        self._places = [
            (document, begin)
            for document in np.flatnonzero(store.lengths >= body).tolist()
            for begin in range(0, int(store.lengths[document]) - body + 1, body)
        ]
        """document and its first token of every row"""

    def __len__(self) -> int:
        return len(self._places)

    def segments(self, number: int) -> list[NDArray[np.int64]]:
        """Return a row as one segment."""
        document, begin = self._places[number]
        body = self._store.document(document, begin, begin + self._body)
        return [_joined(self._mix.begin, body, [self._mix.end_token])]


class _Stream:
    """Documents one after the other, each with BOS first and EOS last, cut into rows without regard to them.

    A document that is cut goes on in the next row, behind a BOS of its own. A last row that is not full is
    left out.
    """

    def __init__(self, store: TokenStore, documents: NDArray[np.int64], mix: Mix) -> None:
        self._store = store
        self._documents = documents
        self._mix = mix
        self._extra = len(mix.begin) + 1
        self._ends = np.cumsum(store.lengths[documents] + self._extra)
        """end of each document in the stream, tokens"""
        self._room = mix.text_length - len(mix.begin)
        self._begins = list(self._row_begins())
        """begin of each row in the stream, behind its BOS"""

    def __len__(self) -> int:
        return len(self._begins)

    def _row_begins(self) -> Iterator[int]:
        """Yield where rows begin: each behind the one before, or behind the BOS of the document there."""
        ends = self._ends.tolist()
        begins = [0, *ends]
        at = place = 0
        while (place := bisect_right(ends, at, lo=place)) < len(ends):
            at = max(at, begins[place] + len(self._mix.begin))
            if at + self._room > ends[-1]:
                return
            yield at
            at += self._room

    def segments(self, number: int) -> list[NDArray[np.int64]]:
        """Return a row's segments, one per document, BOS included."""
        begin = self._begins[number]
        end = begin + self._room
        first = int(np.searchsorted(self._ends, begin, side="right"))
        last = int(np.searchsorted(self._ends, end))
        opening, *others = [self._piece(place, begin, end) for place in range(first, last + 1)]
        return [_joined(self._mix.begin, opening), *others]

    def _piece(self, place: int, begin: int, end: int) -> NDArray[np.int64]:
        """Return the part of one document between two tokens of the stream."""
        document = int(self._documents[place])
        size = int(self._store.lengths[document]) + self._extra
        start = int(self._ends[place]) - size
        begin, end = max(0, begin - start), min(size, end - start)
        before = self._mix.begin[begin:end]
        first, last = (max(0, at - len(self._mix.begin)) for at in (begin, end))
        after = [self._mix.end_token] if end == size else []
        return _joined(before, self._store.document(document, first, last), after)


def _joined(*parts: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


class Chunks(Dataset[dict[str, torch.Tensor]]):
    """Rows of text, and passkey prompts, in an order fixed by the seed.

    Where documents are packed, a token attends to all before it in its row, those of other documents too.
    """

    def __init__(self, store: TokenStore, tokenizer: Tokenizer, mix: Mix) -> None:
        """Find the rows.

        Raises:
            UserError: if the documents fill fewer rows than a batch has.
        """
        self._tokenizer = tokenizer
        self._mix = mix
        self._rows = _packed(store, mix) if mix.packed else _Whole(store, mix)
        self._classic = classic_filler(tokenizer, mix.text_length)
        if len(self._rows) < mix.batch_size:
            remedy = (
                "name more" if mix.packed else "set finetune.pack_documents true, name longer ones"
            )
            raise UserError(
                f"finetune.documents fill {len(self._rows)} rows of {mix.text_length} tokens, fewer than one "
                f"batch of {mix.batch_size}; {remedy}, or lower finetune.text_length."
            )

    def __len__(self) -> int:
        return self._mix.num_rows

    @property
    def num_available(self) -> int:
        """Number of rows of text in an epoch."""
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = np.random.default_rng([self._mix.seed, 1, index])
        passkey = generator.random() < self._mix.passkey_fraction
        row = self._prompt(index, generator) if passkey else self._text(index)
        tokens = torch.from_numpy(row)
        return {"input_ids": tokens, "labels": tokens}

    def _text(self, index: int) -> NDArray[np.int64]:
        number = _shuffled(index, len(self._rows), self._mix.seed)
        return np.concatenate(self._rows.segments(number))

    def _prompt(self, index: int, generator: np.random.Generator) -> NDArray[np.int64]:
        classic = generator.random() < 0.5
        prompt = build_prompt(
            self._tokenizer,
            self._classic if classic else filler_of(self._tokenizer, self._text(index)),
            length=self._mix.text_length,
            begin=self._mix.begin,
            # Both ends get a share of their own, or a needle right at one would never be trained on.
            depth=float(np.clip(generator.uniform(-0.1, 1.1), 0.0, 1.0)),
            key=draw_key(generator),
        )
        return prompt.tokens


def _packed(store: TokenStore, mix: Mix) -> _Stream:
    """Return rows of all documents, shuffled, so that those of one file or one kind do not share rows."""
    return _Stream(store, np.random.default_rng([mix.seed, 4]).permutation(len(store)), mix)


def _shuffled(index: int, count: int, seed: int) -> int:
    """Return the shuffled place for an index of the run; every place comes once an epoch."""
    epoch, position = divmod(index, count)
    return int(np.random.default_rng([seed, 0, epoch]).permutation(count)[position])


class Windows(Dataset[dict[str, torch.Tensor]]):
    """Windows of text: chunks of documents, and whole documents that are shorter, one after the other.

    A document that is cut goes on in another window, as a piece of its own with its BOS. A window is a row
    with `positions`, from 0 in each piece.
    """

    def __init__(self, store: TokenStore, mix: Mix) -> None:
        """Find the windows.

        Raises:
            UserError: if there is none.
        """
        self._mix = mix
        self._whole = _Whole(store, mix)
        short = np.flatnonzero(store.lengths < mix.text_length - len(mix.begin) - 1)
        self._stream = _Stream(store, short, mix)
        if self.num_available == 0:
            raise UserError(
                f"finetune.mixed_window: all documents together have {store.offsets[-1]} tokens, too few for "
                f"one window of {mix.text_length}; name more in finetune.mixed_window.documents."
            )

    def __len__(self) -> int:
        return self._mix.num_rows

    @property
    def num_available(self) -> int:
        """Number of windows in an epoch."""
        return len(self._whole) + len(self._stream)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        segments = self._segments(_shuffled(index, self.num_available, self._mix.seed))
        tokens = torch.from_numpy(np.concatenate(segments))
        positions = torch.cat([torch.arange(len(piece)) for piece in segments])
        return {"input_ids": tokens, "labels": tokens, "positions": positions}

    def _segments(self, number: int) -> list[NDArray[np.int64]]:
        if number < len(self._whole):
            return self._whole.segments(number)
        return self._stream.segments(number - len(self._whole))


class Skipped(Dataset[dict[str, torch.Tensor]]):
    """Rows whose positions jump once, so that short rows show the positions of a long one.

    A row is cut at a random place, and what follows is moved by a random number of positions. Unlike in the
    paper both parts are neighbours in their document.

    Source: Zhu et al. 2023, PoSE (arXiv:2309.10400), section 3, with two chunks.
    """

    def __init__(
        self, rows: Dataset[dict[str, torch.Tensor]], target_length: int, seed: int
    ) -> None:
        self._rows = rows
        self._target_length = target_length
        self._seed = seed

    def __len__(self) -> int:
        return len(self._rows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self._rows[index]
        positions = skipping_positions(
            len(row["input_ids"]),
            self._target_length,
            np.random.default_rng([self._seed, 2, index]),
        )
        return row | {"positions": torch.from_numpy(positions), "piece_length": torch.tensor(0)}


def skipping_positions(
    length: int, target_length: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return rising positions from 0, below the target length, with one jump.

    Args:
        length: tokens of the row, at least 2.
        target_length: at least the row's length.
        generator: draws the place of the jump and its size, both uniformly.

    Returns:
        Shape (length,).
    """
    positions = np.arange(length)
    positions[generator.integers(1, length) :] += generator.integers(target_length - length + 1)
    return positions


class Mixed(Dataset[dict[str, torch.Tensor]]):
    """Long rows, mixed with rows of short pieces that do not attend to each other.

    A row of pieces is some windows of the original length one after the other, each of one piece or more.

    Source: Shang et al. 2025, LongRoPE2 (arXiv:2502.20082), mixed context window training.
    """

    def __init__(
        self,
        rows: Dataset[dict[str, torch.Tensor]],
        windows: Dataset[dict[str, torch.Tensor]],
        short_fraction: float,
        seed: int,
    ) -> None:
        """Mix rows.

        Args:
            rows: the long ones, T tokens each.
            windows: with `positions`; as many for each row as it has room for. Those of long rows are
                passed over.
            short_fraction: how many rows are of pieces.
            seed: of the draws.
        """
        self._rows = rows
        self._windows = windows
        self._short_fraction = short_fraction
        self._seed = seed
        self._length = len(rows[0]["input_ids"])
        self._window = len(windows[0]["input_ids"])

    def __len__(self) -> int:
        return len(self._rows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if np.random.default_rng([self._seed, 3, index]).random() < self._short_fraction:
            return self._short(index)
        plain = {"positions": torch.arange(self._length), "piece_length": torch.tensor(0)}
        return plain | self._rows[index]

    def _short(self, index: int) -> dict[str, torch.Tensor]:
        count = self._length // self._window
        windows = [self._windows[number] for number in range(index * count, (index + 1) * count)]
        joined = {name: torch.cat([window[name] for window in windows]) for name in windows[0]}
        return joined | {"piece_length": torch.tensor(self._window)}
