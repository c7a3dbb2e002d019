"""A study of searches to tables: every search, the algorithms over seeds, and how they converged.

Reads the outputs of a plan's search nodes; imports no torch. A study that has algorithms named
`evolution` or `evolution-public` has the others compared with them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import t as student

from longrope.reports.results import (
    Results,
    on_all_documents,
    read_history,
    read_json,
    with_settings,
)
from longrope.reports.tables import finished_table
from longrope.rope.factors import RopeFactors
from longrope.settings.nodes import SearchNode

BASELINES = ("evolution", "evolution-public")
"""algorithms of a study that the others are compared with"""
SEARCH_COLUMNS = (
    *("algorithm", "seed", "length", "bos", "scored_tokens", "train_ppl", "heldout_ppl"),
    *("seconds", "peak_memory_mb"),
)
SUMMARY_COLUMNS = (
    *("algorithm", "length", "seeds", "scored_tokens", "heldout_ppl", "heldout_low"),
    *("heldout_high", "baseline", "common_seeds", "wins", "log_ratio", "log_ratio_low"),
    *("log_ratio_high", "token_share"),
)
CONVERGENCE_COLUMNS = ("algorithm", "seed", "length", "scored_tokens", "best")

# Every search -----------------------------------------------------------------------------------


def search_table(results: Results) -> pd.DataFrame:
    """Return one row per search of a study, with its result and cost."""
    rows = [
        _search_row(results.store / node.key, settings)
        for node, settings in with_settings(results.plan, SearchNode)
    ]
    table = pd.DataFrame(rows, columns=list(SEARCH_COLUMNS))
    return table.sort_values(["length", "algorithm", "seed"], kind="stable", ignore_index=True)


def _search_row(folder: Path, settings: SearchNode) -> dict[str, Any]:
    provenance = RopeFactors.read(folder / "factors.json").provenance
    manifest = read_json(folder / "manifest.json")
    return {
        **_which(settings),
        "bos": provenance["bos"],
        "scored_tokens": provenance["scored_tokens"],
        "train_ppl": provenance["perplexity"],
        "heldout_ppl": provenance["held_out_perplexity"],
        "seconds": manifest["seconds"],
        "peak_memory_mb": manifest["peak_memory_mb"],
    }


def _which(settings: SearchNode) -> dict[str, Any]:
    """Return the cells that identify a search of the study."""
    return {
        "algorithm": settings.study,
        "seed": settings.seed,
        "length": settings.target_length,
    }


# Algorithms over seeds --------------------------------------------------------------------------


def summary(results: Results) -> pd.DataFrame:
    """Return the summary of the table of all searches."""
    return summary_table(finished_table(results, "search"))


def summary_table(searches: pd.DataFrame) -> pd.DataFrame:
    """Return one row per length, algorithm and baseline, of the table of all searches.

    Where a study has no other baseline than the algorithm itself, the cells of the comparison are empty.
    """
    rows = [row for _, group in searches.groupby("length") for row in _summary_rows(group)]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def _summary_rows(searches: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the rows of one length."""
    by_name = {str(name): runs.set_index("seed") for name, runs in searches.groupby("algorithm")}
    for name, runs in by_name.items():
        baselines = [base for base in BASELINES if base in by_name and base != name]
        columns = {"algorithm": name, "length": runs["length"].iloc[0], **_over_seeds(runs)}
        for base in baselines:
            yield {**columns, "baseline": base, **_compared(runs, by_name[base])}
        if not baselines:
            yield {**columns, "baseline": ""}


def _over_seeds(searches: pd.DataFrame) -> dict[str, float]:
    low, high = mean_interval(searches["heldout_ppl"])
    return {
        "seeds": len(searches),
        "scored_tokens": searches["scored_tokens"].median(),
        "heldout_ppl": searches["heldout_ppl"].mean(),
        "heldout_low": low,
        "heldout_high": high,
    }


def _compared(searches: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, float]:
    """Compare searches with a baseline's of the same seeds, both indexed by seed."""
    pairs = searches.merge(baseline, on="seed", suffixes=("", "_base"))
    ratios = np.log(pairs["heldout_ppl"] / pairs["heldout_ppl_base"])
    low, high = mean_interval(ratios)
    return {
        "common_seeds": len(pairs),
        "wins": int((pairs["heldout_ppl"] < pairs["heldout_ppl_base"]).sum()),
        "log_ratio": ratios.mean(),
        "log_ratio_low": low,
        "log_ratio_high": high,
        "token_share": pairs["scored_tokens"].sum() / pairs["scored_tokens_base"].sum(),
    }


def mean_interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of a mean, if values of shape (n,) are drawn from one normal distribution.

    Returns:
        lower and upper end; NaN for fewer than two values, or if one is not finite.
    """
    numbers = np.asarray(values, dtype=float)
    if len(numbers) < 2 or not np.isfinite(numbers).all():
        return np.nan, np.nan
    half = (
        student.ppf((1 + level) / 2, len(numbers) - 1) * numbers.std(ddof=1) / len(numbers) ** 0.5
    )
    return float(numbers.mean() - half), float(numbers.mean() + half)


# Convergence ------------------------------------------------------------------------------------


def study_convergence(results: Results) -> pd.DataFrame:
    """Return the best perplexity so far of each search of a study, by scored tokens.

    Only candidates scored on all search documents count: an algorithm that compares on few of them knows
    its best no earlier, and perplexities on few depend on which these are. A row per such candidate.
    """
    tables = [
        _best_so_far(results.store / node.key, settings)
        for node, settings in with_settings(results.plan, SearchNode)
    ]
    if not tables:
        return pd.DataFrame(columns=list(CONVERGENCE_COLUMNS))
    return pd.concat(tables, ignore_index=True)


def _best_so_far(folder: Path, settings: SearchNode) -> pd.DataFrame:
    lines = on_all_documents(read_history(folder / "history.jsonl"))
    perplexity = pd.Series([line["perplexity"] for line in lines], dtype=float)
    return pd.DataFrame(
        {
            **_which(settings),
            "scored_tokens": [line["scored_tokens"] for line in lines],
            "best": perplexity.cummin().ffill(),
        }
    )[list(CONVERGENCE_COLUMNS)]


def band_over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return median, least and most over seeds of the best so far, indexed by scored tokens.

    Args:
        rows: convergence of one algorithm at one length.

    Returns:
        columns `median`, `low` and `high`; from where every seed has a candidate scored on all documents.
        A search that is over stays at what it found.
    """
    by_seed = rows.pivot_table(index="scored_tokens", columns="seed", values="best", aggfunc="min")
    filled = by_seed.ffill().dropna()
    return pd.DataFrame(
        {"median": filled.median(axis=1), "low": filled.min(axis=1), "high": filled.max(axis=1)}
    )
