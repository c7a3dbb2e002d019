"""Facts about a file of factors that its user states, and the fields that a reader returns."""

from dataclasses import dataclass
from typing import TypeGuard

Fields = dict[str, object]
"""Some of the fields of RopeFactors."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value of JSON is a number, which true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, kw_only=True)
class StatedFacts:
    """Facts that the caller states about a file, used where the file omits them."""

    original_length: int | None = None
    target_length: int | None = None
    """of a table of several lengths, the one to read"""
    num_start_tokens: int | None = None
    attention_scale: float | None = None
    rope_theta: float | None = None
    partial_rotary_factor: float | None = None
    short: bool = False
    """of a Hugging Face config, the set that is used up to the original length"""
