"""An export: the model, the factors searched for it, and the sets chosen from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from longrope.architectures import ARCHITECTURES, Architecture
from longrope.errors import UserError
from longrope.exports.source import FactorSource
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry
from longrope.rope.switching import differences

Sets = Literal["long", "both"]
"""long: the long factors at every length; both: others up to the original length"""


@dataclass(frozen=True, kw_only=True)
class Export:
    """A model with two sets of factors, which most engines can hold, and no start tokens."""

    model: Path
    base: Path
    """folder of the model that it was fine-tuned from, else the same"""
    config: Mapping[str, object]
    """config.json of the model"""
    geometry: Geometry
    source: FactorSource
    sets: Sets
    short: RopeFactors
    """up to the original length"""
    long: RopeFactors
    """beyond it"""
    full_attention: bool = False
    """whether a sliding window of the model is switched off"""

    @property
    def name(self) -> str:
        """Name of the base model."""
        inside_node = self.model.name == "model" and self.model.parent.name
        return inside_node or self.model.name

    @property
    def architecture(self) -> Architecture:
        """Architecture of the model."""
        return ARCHITECTURES[str(self.config["model_type"])]


def choose(
    source: FactorSource, *, length: int | None, sets: Sets
) -> tuple[RopeFactors, RopeFactors]:
    """Return the short and the long set of a table, as it has them.

    Args:
        source: of the table.
        length: of the entry to export as the long set; None: the longest.
        sets: `long` to use it at every length, `both` to use the table's entry up to the original length,
            or the pretrained embedding where the table has only one entry.

    Raises:
        UserError: if the table has no such entry, or one that extends nothing.
    """
    long = _entry(source, length)
    if long.target_length <= long.original_length:
        raise UserError(
            f"{source.name}: the factors for {long.target_length} tokens extend nothing, since the "
            f"original window has {long.original_length}; give factors for a longer one."
        )
    if sets == "long":
        return long, long
    short = source.table.at(long.original_length)
    if short == long:
        return _pretrained(long), long
    return short.model_copy(update={"target_length": long.original_length}), long


def without_start_tokens(factors: RopeFactors) -> RopeFactors:
    """Return factors that hold for the first tokens too."""
    return factors.model_copy(update={"num_start_tokens": 0})


def require_same_model(name: str, table: FactorTable, geometry: Geometry, model: Path) -> None:
    """Refuse factors of another model.

    Args:
        name: of the factors, for the message.
        table: the factors.
        geometry: of the model's rotary embedding.
        model: its folder.

    Raises:
        UserError: naming the first fact in which they differ.
    """
    for _, fact, searched, present in differences(table, geometry):
        raise UserError(
            f"{name} is for a model with {fact} {searched:g}, but {model} has {present:g}; give "
            "the model that the factors were searched for, or its own factors."
        )


def require_no_start_tokens(source: FactorSource, sets: tuple[RopeFactors, ...]) -> None:
    """Refuse factors that leave start tokens unscaled, which no engine can."""
    numbers = [factors.num_start_tokens for factors in sets if factors.num_start_tokens]
    if numbers:
        raise UserError(
            f"{source.name} leaves {numbers[0]} start tokens unscaled, which no engine can; give "
            "--drop-start-tokens to export the factors without them (with --texts, to measure what that "
            "costs), or search with start_tokens: [0]."
        )


def _entry(source: FactorSource, length: int | None) -> RopeFactors:
    by_length = {entry.target_length: entry for entry in source.table.entries}
    if length is None:
        return source.table.entries[-1]
    if length not in by_length:
        lengths = ", ".join(map(str, by_length))
        raise UserError(
            f"{source.name} has no factors for {length} tokens; choose --length out of {lengths}."
        )
    return by_length[length]


def _pretrained(long: RopeFactors) -> RopeFactors:
    """Return the pretrained embedding up to the original length of other factors."""
    return long.model_copy(
        update={
            "factors": (1.0,) * len(long.factors),
            "attention_scale": 1.0,
            "num_start_tokens": 0,
            "target_length": long.original_length,
            "method": "none",
            "provenance": {},
        }
    )
