"""The rotary embedding that replaces a model's own.

Unlike transformers' `longrope` type it does not look at the length of a single forward call, so a
document may be read in chunks or split over devices and still get one set of factors; and it can
leave start tokens unscaled.

Source: Ding et al. 2024, LongRoPE (arXiv:2402.13753), section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry, closed_form


@dataclass(frozen=True)
class RowPositions:
    """Positions of the tokens in a batch of B rows of T tokens."""

    positions: Tensor
    """shape (B, T), tokens from the start of a document"""
    piece_lengths: tuple[int, ...]
    """of each row: length of the pieces, under the pretrained embedding, that it is made of; else 0"""


class LongRopeRotary(nn.Module):
    """Cosines and sines of every rotary pair, under one set of factors or a table of them.

    A new module is the pretrained embedding. It has no parameters and adds nothing to a state dict.
    Its frequencies are plain tensors because casting a model to bfloat16 also casts its buffers,
    and frequencies rounded to 8 bits are radians off after some thousand tokens.
    """

    def __init__(self, geometry: Geometry, *, angle_dtype: torch.dtype = torch.float32) -> None:
        """Make the pretrained embedding of a geometry.

        Args:
            geometry: number of pairs and base of the frequencies.
            angle_dtype: precision of the angles; float32 is what deployed models use.
        """
        super().__init__()
        self.geometry = geometry
        self.angle_dtype = angle_dtype
        self._pretrained = pretrained_frequencies(geometry, dtype=angle_dtype)
        self.row_positions: RowPositions | None = None
        """Replaces the positions that a model passes: from those it also derives its attention mask, and a
        jump would begin another document."""
        self.use(closed_form("none", geometry, geometry.original_length))

    def use(self, factors: RopeFactors) -> None:
        """Use one set of factors whatever the length.

        Raises:
            ValueError: if there is not one factor per rotary pair.
        """
        self.use_table(FactorTable(entries=(factors,)))

    def use_table(self, table: FactorTable) -> None:
        """Use the entry of a table that fits the longest row of each batch.

        A chunk of a longer document must come with the document's length, see `embed`.

        Raises:
            ValueError: if an entry has not one factor per rotary pair.
        """
        expected = self.geometry.num_pairs
        for entry in table.entries:
            if len(entry.factors) != expected:
                raise ValueError(
                    f"the model has {expected} rotary pairs, got {len(entry.factors)} factors"
                )
        self._table = table
        self._scaled = {entry.target_length: self._scale(entry) for entry in table.entries}

    @property
    def table(self) -> FactorTable:
        """The factors in use."""
        return self._table

    @property
    def inv_freq(self) -> Tensor:
        """Pretrained frequencies, shape (P,), radians per token."""
        return self._pretrained

    def forward(
        self, x: Tensor, position_ids: Tensor, layer_type: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `embed` at the length that the largest position shows; what transformers calls.

        Args:
            x: any tensor of the dtype and device to return.
            position_ids: shape (B, T), tokens from the start of the document.
            layer_type: ignored; models with an embedding per layer type are refused on loading.
        """
        del layer_type
        if self.row_positions is not None:
            position_ids = self.row_positions.positions
        # the maximum waits for the device, so it is only taken where it decides something
        length = int(position_ids.max()) + 1 if len(self._table.entries) > 1 else 0
        return self.embed(x, position_ids, length=length)

    def embed(self, x: Tensor, position_ids: Tensor, *, length: int) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of every angle, times the attention scale.

        Args:
            x: any tensor of the dtype and device to return.
            position_ids: shape (B, T), tokens from the start of the document.
            length: tokens of the whole document, which picks the entry of a table; else unused.

        Returns:
            Two tensors of shape (B, T, 2P) and dtype of `x`; their halves are equal.
        """
        factors = self._table.at(length)
        positions = position_ids[..., None].to(x.device, self.angle_dtype)
        angles = positions * self._scaled[factors.target_length].to(x.device)
        scale: Tensor | float = factors.attention_scale
        unscaled = self._unscaled(positions, factors)
        if unscaled is not None:
            angles = torch.where(unscaled, positions * self._pretrained.to(x.device), angles)
            scale = torch.where(unscaled, 1.0, factors.attention_scale).to(self.angle_dtype)
        return _halves(angles.cos() * scale, x), _halves(angles.sin() * scale, x)

    def _unscaled(self, positions: Tensor, factors: RopeFactors) -> Tensor | None:
        """Return where the pretrained embedding is used, booleans like (B, T, 1); None for nowhere."""
        mask = None
        if factors.num_start_tokens:
            mask = positions < factors.num_start_tokens
        if self.row_positions is not None:
            rows = torch.tensor(self.row_positions.piece_lengths, device=positions.device) > 0
            mask = rows[:, None, None] if mask is None else mask | rows[:, None, None]
        return mask

    def _scale(self, factors: RopeFactors) -> Tensor:
        """Return frequencies of shape (P,), divided in float64: a factor of 1 changes no bit."""
        divisors = torch.tensor(factors.factors, dtype=torch.float64)
        return (self._pretrained.double() / divisors).to(self.angle_dtype)


def pretrained_frequencies(geometry: Geometry, *, dtype: torch.dtype) -> Tensor:
    """Return radians per token of each pair, shape (P,), computed in `dtype` as transformers does.

    They are computed again rather than copied from a model, whose copy may have been cast.
    """
    exponents = torch.arange(0, 2 * geometry.num_pairs, 2).to(dtype) / (2 * geometry.num_pairs)
    frequencies: Tensor = 1.0 / (geometry.rope_theta**exponents)
    return frequencies


def install(model: Any, geometry: Geometry) -> LongRopeRotary:
    """Put a LongRopeRotary in the place of a model's rotary embedding, and return it.

    An installed one of the same geometry is returned as it is, factors included.

    Args:
        model: a transformers causal language model with `base_model.rotary_emb`.
        geometry: as `longrope.models.loading.geometry` reads it from the model.

    Raises:
        ValueError: if the geometry has another number of pairs than the model.
    """
    present = model.base_model.rotary_emb
    if isinstance(present, LongRopeRotary) and present.geometry == geometry:
        return present
    if present.inv_freq.numel() != geometry.num_pairs:
        raise ValueError(
            f"the model has {present.inv_freq.numel()} rotary pairs, got a geometry of "
            f"{geometry.num_pairs}"
        )
    rotary = LongRopeRotary(geometry)
    model.base_model.rotary_emb = rotary
    return rotary


@contextmanager
def restored(model: Any) -> Iterator[None]:
    """Restore a model's rotary embedding and its present factors at the end of the block."""
    rotary = model.base_model.rotary_emb
    table = rotary.table if isinstance(rotary, LongRopeRotary) else None
    try:
        yield
    finally:
        model.base_model.rotary_emb = rotary
        if table is not None:
            rotary.use_table(table)


def _halves(values: Tensor, like: Tensor) -> Tensor:
    """Return (B, T, P) values twice along the last axis, in the dtype of another tensor."""
    return torch.cat((values, values), dim=-1).to(like.dtype)
