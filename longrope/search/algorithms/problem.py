"""The problem of a search: factors within bounds, on top of those that a model already has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longrope.rope.critical import critical_pairs
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import METHODS, Geometry, attention_scale
from longrope.search.algorithms.space import AttentionGrid, Individual, Space
from longrope.settings.nodes import SearchNode
from longrope.settings.search import SearchMethod

CLOSED_FORM_SEEDS = ("linear", "ntk", "yarn")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A space of factors that multiply those that a model already has."""

    space: Space
    geometry: Geometry
    base: tuple[float, ...]
    """factors the model was tuned under, 1 for a pretrained one; the found ones multiply them"""
    seeds: Mapping[str, Individual]
    attention_scale: float
    """where the space does not search it"""
    source_length: int
    """window that the model knows: the original one, or the one it was tuned to; tokens"""
    target_length: int

    @property
    def scale(self) -> float:
        """Target over source length, at least 1."""
        return max(1.0, self.target_length / self.source_length)

    def compose(self, individual: Individual) -> RopeFactors:
        """Return an individual's factors times the base's (second interpolation of the paper)."""
        searched_factors = self.space.factors(individual)
        searched = self.space.attention_scale(individual)
        return RopeFactors(
            factors=tuple(
                float(round(a * b, 10)) for a, b in zip(searched_factors, self.base, strict=True)
            ),
            num_start_tokens=individual.num_start_tokens,
            attention_scale=self.attention_scale if searched is None else searched,
            original_length=self.geometry.original_length,
            target_length=self.target_length,
            rope_theta=self.geometry.rope_theta,
            partial_rotary_factor=self.geometry.partial_rotary_factor,
            hidden_size=self.geometry.hidden_size,
            method="longrope",
        )


def space_for(
    geometry: Geometry,
    search: SearchMethod,
    scale: float,
    *,
    least: float | None = None,
    attention_scale: float = 1.0,
) -> Space:
    """Return the space of a search that extends by `scale`.

    Args:
        geometry: of the model.
        search: settings of the search.
        scale: what bounds the factors from above, times a ratio.
        least: lower bound of the factors that are searched under a critical dimension; `scale` if None.
        attention_scale: of the seeds, where it is searched.

    Raises:
        UserError: if the critical dimension leaves no pair to search.
    """
    critical, scales = search.critical_dimension, search.attention_scales
    lowest = scale if least is None else least
    return Space(
        num_pairs=geometry.num_pairs,
        max_factor=search.max_factor_ratio * scale,
        grid=search.grid,
        start_tokens=tuple(search.start_tokens),
        min_factor=1.0 if critical is None else lowest,
        critical_pairs=critical_pairs(critical, geometry),
        attention=None
        if scales is None
        else AttentionGrid(
            low=scales.low, high=scales.high, step=scales.step, start=attention_scale
        ),
    )


def extension_problem(
    settings: SearchNode, geometry: Geometry, base: Sequence[float] | None = None
) -> Problem:
    """Return the search of factors that extend a model from its source length to its target length.

    Args:
        settings: of the search.
        geometry: of the model.
        base: factors the model was tuned under, which the searched ones multiply; None: pretrained.
    """
    scale = settings.target_length / settings.source_length
    rule = attention_scale(
        settings.attention_scale,
        scale=settings.target_length / settings.original_length,
        original_length=settings.original_length,
    )
    space = space_for(geometry, settings.search, scale, attention_scale=rule)
    return Problem(
        space=space,
        geometry=geometry,
        base=tuple(base or (1.0,) * geometry.num_pairs),
        seeds=closed_form_seeds(space, geometry, scale),
        attention_scale=rule,
        source_length=settings.source_length,
        target_length=settings.target_length,
    )


def closed_form_seeds(space: Space, geometry: Geometry, scale: float) -> dict[str, Individual]:
    """Return PI, NTK and YaRN at a scale, rounded to the grid, by name."""
    return {
        name: space.nearest(METHODS[name](geometry, scale).tolist()) for name in CLOSED_FORM_SEEDS
    }
