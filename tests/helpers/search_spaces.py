"""Small search spaces with a critical pair or attention scales, and whether an individual is valid."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from searches import GEOMETRY, PROBLEM, SCALE

from longrope.search.algorithms.problem import closed_form_seeds, space_for
from longrope.settings.search import SearchMethod

SCALES = {"low": 1.0, "high": 1.5, "step": 1e-4}


OPTIONS = {"max_factor_ratio": 2.0, "attention_scales": SCALES}
"""with factors from the scale, 8, to 16"""


SPACES = {
    setting: space_for(
        GEOMETRY,
        SearchMethod.model_validate(
            {
                "algorithm": "evolution",
                "start_tokens": [0, 2, 8],
                **OPTIONS,
                "critical_dimension": setting,
            }
        ),
        SCALE,
        attention_scale=1.2,
    )
    for setting in ("theory", "search", 3, 0)
}


def is_valid(space, individual):
    """Tell whether an individual is on the grid, in bounds and non-decreasing, by its factors."""
    critical = individual.critical_pair
    factors = space.factors(individual)
    searched = factors[critical:]
    on_grid = np.allclose(searched * 100, np.rint(searched * 100), atol=1e-9)
    inside = searched.min() >= 8.0 and searched.max() <= 16.0
    rising = all(a <= b for a, b in pairwise(factors)) and len(factors) == space.num_pairs
    choices = critical in space.critical_pairs and individual.num_start_tokens in space.start_tokens
    scale = space.attention_scale(individual)
    return on_grid and inside and rising and choices and 1.0 <= scale <= 1.5


def problem_in(space):
    """Return the small problem in another space."""
    return replace(PROBLEM, space=space, seeds=closed_form_seeds(space, GEOMETRY, SCALE))
