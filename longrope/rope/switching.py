"""The entries of a factor table that a growing text runs under, and the refusal of a table that does not fit.

Keys in a cache are rotated under one entry and are wrong under another. A text may therefore change the
entry only where all of it is computed again, or run under the entry of its final length from the start.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from longrope.errors import UserError
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry

Switch = Literal["start", "recompute"]
"""start: the entry of the final length throughout; recompute: at each length the entry that fits it"""


@dataclass(frozen=True)
class Stretch:
    """A part of a continuation under one entry of a table."""

    factors: RopeFactors
    end: int
    """length of the text, prompt included, at the end of the stretch, tokens"""


def stretches(table: FactorTable, num_tokens: int, total: int, switch: Switch) -> list[Stretch]:
    """Divide the growth of a text from `num_tokens` to `total` tokens among the entries of a table.

    Under `recompute` each token is predicted under the entry of the length of all text before it.
    """
    if switch == "start":
        return [Stretch(table.at(total), total)]
    parts: list[Stretch] = []
    while num_tokens < total:
        entry = table.at(num_tokens)
        last = entry is table.entries[-1]
        # a text that fills the entry still predicts one more token under it
        num_tokens = total if last else min(total, entry.target_length + 1)
        parts.append(Stretch(entry, num_tokens))
    return parts


def require_room(table: FactorTable, num_tokens: int, max_new_tokens: int, name: str) -> None:
    """Refuse a prompt whose continuation would pass the longest entry of a table.

    Raises:
        UserError: naming the prompt and how much room there is.
    """
    longest = table.entries[-1].target_length
    room = longest - num_tokens
    if room < 1:
        raise UserError(
            f"{name} has {num_tokens} tokens, but the longest factors are for {longest}; shorten it, or give "
            "factors for a longer window."
        )
    if max_new_tokens > room:
        raise UserError(
            f"{name} has {num_tokens} tokens, which with {max_new_tokens} new ones are more than the longest "
            f"factors are for ({longest}); ask for at most {room} new tokens."
        )


def require_same_model(table: FactorTable, geometry: Geometry, name: str) -> None:
    """Refuse factors of another model than the named one, as far as they say which model they are of.

    Raises:
        UserError: naming the fact in which they differ.
    """
    for entry, fact, stated, actual in differences(table, geometry):
        raise UserError(
            f"the factors for {entry.target_length} tokens are of a model with {fact} {stated:g}, "
            f"but {name} has {actual:g}; give factors that were searched for this model."
        )


def differences(
    table: FactorTable, geometry: Geometry
) -> Iterator[tuple[RopeFactors, str, float, float]]:
    """Yield entry, name and both values of each fact of its model that an entry states otherwise."""
    for entry in table.entries:
        facts = {
            "rotary pairs": (len(entry.factors), geometry.num_pairs),
            "rope_theta": (entry.rope_theta, geometry.rope_theta),
            "partial_rotary_factor": (entry.partial_rotary_factor, geometry.partial_rotary_factor),
            "hidden_size": (entry.hidden_size, geometry.hidden_size),
        }
        for fact, (stated, actual) in facts.items():
            if stated and actual and not math.isclose(stated, actual):
                yield entry, fact, stated, actual
