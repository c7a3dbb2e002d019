"""Attention in rows made of short pieces: every piece attends to itself alone.

Pieces are of one length, so a row of them is a batch of short rows to the attention, which needs no mask.
That holds in any implementation, for rows that are whole in one process or, under Ulysses, divided, and for
rows of both kinds in one batch. Letters of shapes: B rows, T tokens, A heads, D dimension of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longrope.rotary import LongRopeRotary, Placed


@contextmanager
def attention_within_pieces(rotary: LongRopeRotary, implementation: str) -> Iterator[None]:
    """Let an implementation of attention heed `rotary.placed` while the context lasts.

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
    if rotary.placed is None:
        found: tuple[Tensor, None] = core(module, query, key, value, attention_mask, **named)
        return found
    if attention_mask is not None:
        raise ValueError("rows at positions of their own are attended to causally, without a mask")
    # flash-attn would look for the beginnings of documents in them
    named = named | {"position_ids": None}
    rows = [
        core(module, *(_batch_of_pieces(x, length) for x in row), None, **named)[0].flatten(0, 1)
        for *row, length in zip(query, key, value, _lengths(rotary.placed, query), strict=True)
    ]
    return torch.stack(rows), None


def _lengths(placed: Placed, query: Tensor) -> list[int]:
    return [length or query.shape[2] for length in placed.piece_lengths]


def _batch_of_pieces(row: Tensor, length: int) -> Tensor:
    """Return a row of shape (A, T, D) as (T / length, A, length, D)."""
    return row.view(row.shape[0], -1, length, row.shape[-1]).transpose(0, 1)
