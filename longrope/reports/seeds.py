"""Several seeds of one experiment: whether there are any, and means with the lowest and the highest."""

import math

import pandas as pd

from longrope.plan.nodes import Plan


def has_several(plan: Plan) -> bool:
    """Return whether nodes of a plan were drawn with more than one seed."""
    return len({node.seed for node in plan if node.seed is not None}) > 1


def mean_and_ends(values: "pd.Series[float]") -> tuple[float, float, float]:
    """Return mean, lowest and highest of a value by seed.

    The mean is NaN if the value of some seed is; so are the ends for less than two seeds.
    """
    several = len(values) > 1
    ends = (values.min(), values.max()) if several else (math.nan, math.nan)
    return (values.mean(skipna=False), *ends)


def perplexity_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Return a perplexity table with a row for all seeds, whose interval is the lowest and the highest."""
    if "seed" not in table.columns:
        return table
    by = ["corpus", "stand_in", "variant", "method", "length"]
    rows = [
        [*key, *mean_and_ends(group["ppl"])]
        for key, group in table.groupby(by, sort=False, dropna=False)
    ]
    return pd.DataFrame(rows, columns=[*by, "ppl", "ppl_low", "ppl_high"])
