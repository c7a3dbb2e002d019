"""Rescale factors: one per rotary pair, with lengths, start tokens and attention scale.

Source: Ding et al. 2024, LongRoPE (arXiv:2402.13753), section 3: pair i of token n turns by
`n / (factor_i * theta^(2i/d))` radians, or by `n / theta^(2i/d)` if n is below the number of start tokens.
"""

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from longrope import reading
from longrope.errors import UserError, explain


class FactorsFile(BaseModel):
    """Base class of values that are stored as JSON files."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file_kind: ClassVar[str]
    """kind of file, for error messages"""

    def save(self, path: Path | str) -> None:
        """Write as JSON."""
        Path(path).write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """Return the JSON text that `parse` takes."""
        return json.dumps(self.model_dump(), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read what `save` wrote; raises UserError naming the file if it is something else."""
        try:
            return cls.parse(reading.read_text(Path(path)), path)
        except (*reading.ABSENT, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not a {cls.file_kind}: {error}.") from None

    @classmethod
    def parse(cls, text: str, path: Path | str) -> Self:
        """Parse the text of the file at `path`; raises as `read` does."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(f"{path} is not a {cls.file_kind}: {explain(error, cls)}") from None


class RopeFactors(FactorsFile):
    """Rescale factors of one model for one length."""

    file_kind = "factors file"

    factors: tuple[float, ...] = Field(min_length=1)
    """one per rotary pair, fastest pair first, dimensionless, each > 0"""
    num_start_tokens: int = Field(default=0, ge=0)
    """leading tokens left unscaled, with neither factors nor attention scale"""
    attention_scale: float = Field(default=1.0, gt=0)
    """multiplies cos and sin, so attention logits get it squared"""
    original_length: int = Field(gt=0)
    """context window of the pretrained model, tokens"""
    target_length: int = Field(gt=0)
    """context window these factors are for, tokens"""
    rope_theta: float | None = Field(default=None, gt=1, allow_inf_nan=False)
    """base of the model's rotary frequencies, without which factors make no angles; None: not known"""
    partial_rotary_factor: float | None = Field(default=None, gt=0, le=1)
    """share of a head's dimensions that is rotated; None: not known"""
    hidden_size: int | None = Field(default=None, gt=0)
    """width of the model, which tells apart models of equal rotary embeddings; None: not known"""
    method: str
    """origin: a key of METHODS, or `longrope`"""
    provenance: dict[str, str | int | float] = Field(default_factory=dict)
    """model, seed, search cost and the like; does not change what the factors do"""

    @model_validator(mode="after")
    def _finite(self) -> Self:
        for index, factor in enumerate(self.factors):
            if not (math.isfinite(factor) and factor > 0):
                raise ValueError(f"factor {index} must be finite and positive, got {factor}")
        return self

    @property
    def scale(self) -> float:
        """Target length over original length."""
        return self.target_length / self.original_length

    def identity(self) -> dict[str, object]:
        """Return what determines the angles: factors, start tokens and attention scale."""
        return {
            "factors": list(self.factors),
            "num_start_tokens": self.num_start_tokens,
            "attention_scale": self.attention_scale,
        }

    def origin(self) -> list[str]:
        """Describe method and provenance, which only our own format can hold."""
        method = [] if self.method == "longrope" else [f"method ({self.method})"]
        return method + [f"provenance ({', '.join(self.provenance)})"] * bool(self.provenance)


class FactorTable(FactorsFile):
    """Factors by length: the entry with the smallest length that fits the sequence is used.

    Source: Ding et al. 2024, section 3.3 (recovery at short lengths).
    """

    file_kind = "factor table"

    entries: tuple[RopeFactors, ...] = Field(min_length=1)
    """ordered by target length"""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        lengths = [entry.target_length for entry in self.entries]
        if lengths != sorted(set(lengths)):
            raise ValueError(f"target lengths must rise strictly, got {lengths}")
        return self

    def at(self, length: int) -> RopeFactors:
        """Return the factors for a sequence of `length` tokens; beyond the longest entry, the longest."""
        for entry in self.entries:
            if length <= entry.target_length:
                return entry
        return self.entries[-1]


def first_fall(factors: Sequence[float]) -> int | None:
    """Return the first pair whose factor is below that of the faster pair before it, if any.

    The paper's search keeps factors from falling, but sets that others published do fall.
    """
    falls = (pair for pair, (before, after) in enumerate(pairwise(factors), 1) if after < before)
    return next(falls, None)


def log_ratios(factors: RopeFactors, reference: RopeFactors) -> list[float]:
    """Return ln(factor / reference factor) of every pair.

    Raises:
        ValueError: if they have different numbers of pairs.
    """
    return [math.log(a / b) for a, b in zip(factors.factors, reference.factors, strict=True)]
