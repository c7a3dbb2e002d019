"""Attention in rows made of short pieces: every piece attends to itself alone.

Neighbouring pieces of one length are a batch of short rows to the attention, which needs no mask: a row of
equal pieces is one call, a row of others a call for each. That holds in any implementation, for rows that are
whole in one process or, under Ulysses, divided, and for rows of both kinds in one batch. Letters of shapes:
B rows, T tokens, S processes that share a row, A heads, D dimension of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longrope.models.rotary import LongRopeRotary, RowPositions


@dataclass(frozen=True)
class Packed(RowPositions):
    """Positions of a batch's tokens, and the segments of its rows, which attend to themselves."""

    lengths: tuple[tuple[int, ...], ...]
    """of each row: tokens of its pieces, in order, which add up to T"""

    @classmethod
    def of(cls, positions: Tensor, piece_lengths: Tensor, places: Tensor) -> "Packed":
        """Return the positions and segments of one process's batch.

        Args:
            positions: of whole rows, shape (B, T); 0 where a piece begins and nowhere else.
            piece_lengths: of each row, as in `RowPositions`, shape (B,).
            places: which tokens of its rows this process has, shape (B, T / S).
        """
        local_positions = positions.gather(1, places)
        return cls(local_positions, tuple(piece_lengths.tolist()), tuple(map(_lengths, positions)))


def _lengths(positions: Tensor) -> tuple[int, ...]:
    """Return the tokens of each piece of a row, whose positions (T,) begin at 0 with each."""
    begins = (positions == 0).nonzero().flatten()
    return tuple(begins.diff(append=begins.new_tensor([len(positions)])).tolist())


@contextmanager
def attention_within_segments(rotary: LongRopeRotary, implementation: str) -> Iterator[None]:
    """Make an attention implementation respect `rotary.row_positions` while the context lasts.

    It keeps its name, because that is how Ulysses finds it, and masks are made by name too.

    Args:
        rotary: of the model.
        implementation: name of the model's attention in transformers' registry.
    """
    core = ALL_ATTENTION_FUNCTIONS[implementation]
    ALL_ATTENTION_FUNCTIONS[implementation] = partial(_attend, rotary, core)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[implementation] = core


def _attend(
    rotary: LongRopeRotary,
    core: Callable[..., Any],
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **named: Any,
) -> tuple[Tensor, None]:
    """Return the attention of tensors (B, A, T, D) as (B, T, A, D)."""
    packed = rotary.row_positions
    if not isinstance(packed, Packed):
        whole: tuple[Tensor, None] = core(module, query, key, value, attention_mask, **named)
        return whole
    if attention_mask is not None:
        raise ValueError("rows at positions of their own are attended to causally, without a mask")
    # flash-attn would look for the beginnings of documents in them
    named = named | {"position_ids": None}
    rows = []
    for *row, lengths in zip(query, key, value, packed.lengths, strict=True):
        outputs = [core(module, *batch, None, **named)[0] for batch in _batches(row, lengths)]
        rows.append(torch.cat([output.flatten(0, 1) for output in outputs]))
    return torch.stack(rows), None


def _batches(row: list[Tensor], lengths: tuple[int, ...]) -> Iterator[list[Tensor]]:
    """Yield the pieces of tensors (A, T, D), neighbours of one length together: (pieces, A, length, D)."""
    runs = [(length, len(list(equal))) for length, equal in groupby(lengths)]
    # split and not slices, each of whose gradients would be as long as the row
    sizes = [length * count for length, count in runs]
    parts = zip(*(torch.split(x, sizes, 1) for x in row), strict=True)
    for (length, count), part in zip(runs, parts, strict=True):
        yield [x.reshape(len(x), count, length, -1).transpose(0, 1) for x in part]
