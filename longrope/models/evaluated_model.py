"""Model under evaluation, with the factors it gets at each length."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry, closed_form


@dataclass(frozen=True, kw_only=True)
class EvaluatedModel:
    """A model under a method, or under a table of factors by length."""

    model: PreTrainedModel
    geometry: Geometry
    method: str
    """key of METHODS; `longrope` reads the table"""
    table: FactorTable | None = None
    begin: tuple[int, ...] = ()
    """ids that every window begins with"""

    def factors_at(self, length: int) -> RopeFactors:
        """Return the factors for a sequence of `length` tokens."""
        if self.table is not None:
            return self.table.at(length)
        return closed_form(self.method, self.geometry, length)
