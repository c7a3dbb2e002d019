"""Searches of a study compared over seeds: tables by hand, and convergence from histories."""

import importlib.util
import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_settings import node_settings
from repository import ROOT
from scipy import stats

from longrope.plan.nodes import Node, Plan
from longrope.reports import studies
from longrope.reports.figures import search_convergence
from longrope.reports.results import Results
from longrope.reports.tables import read_table, to_markdown, write_table
from longrope.rope.factors import RopeFactors
from longrope.search.workers.units import Score, Text


def searches(*rows):
    """Return a table of searches from (algorithm, seed, length, scored tokens, held-out perplexity)."""
    names = ["algorithm", "seed", "length", "scored_tokens", "heldout_ppl"]
    return pd.DataFrame(rows, columns=names)


@pytest.fixture
def study():
    """Two algorithms that share seeds 1 and 2 of three each."""
    return searches(
        ("auto", 1, 1024, 10, 50.0), ("auto", 2, 1024, 30, 80.0), ("auto", 3, 1024, 20, 65.0),
        ("evolution", 0, 1024, 9000, 1.0), ("evolution", 1, 1024, 1000, 100.0),
        ("evolution", 2, 1024, 600, 80.0),
    )  # fmt: skip


# Over seeds ---------------------------------------------------------------------------------------


def test_an_interval_of_three_values_is_that_of_a_printed_table_of_t():
    # mean 2, standard deviation 1; t of 2 degrees of freedom is 4.3027
    assert studies.mean_interval([1, 2, 3]) == pytest.approx(
        (2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-4
    )


@given(st.lists(st.integers(1, 100), min_size=2, max_size=9), st.floats(0.5, 0.99))
def test_an_interval_is_that_of_scipys_test_of_a_mean(values, level):
    expected = stats.ttest_1samp([*values, 101], 0).confidence_interval(level)
    assert studies.mean_interval([*values, 101], level) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("values", [[], [3.0], [1.0, math.inf], [1.0, math.nan]])
def test_values_that_say_nothing_of_their_spread_have_no_interval(values):
    assert all(map(math.isnan, studies.mean_interval(values)))


def test_an_algorithm_is_summed_up_over_its_own_seeds(study):
    row = studies.summary_table(study).iloc[0]
    assert (row["algorithm"], row["length"], row["seeds"]) == ("auto", 1024, 3)
    assert (row["scored_tokens"], row["heldout_ppl"]) == (20, 65)
    # standard deviation 15
    assert row["heldout_high"] - 65 == pytest.approx(4.3027 * 15 / 3**0.5, rel=1e-4)
    assert 65 - row["heldout_low"] == pytest.approx(row["heldout_high"] - 65)


def test_it_is_compared_with_a_baseline_over_the_seeds_of_both(study):
    row = studies.summary_table(study).iloc[0]
    assert (row["baseline"], row["common_seeds"]) == ("evolution", 2)
    assert row["wins"] == 1, "80 is not strictly below 80"
    # logarithms ln 0.5 and 0: mean and standard error are both half of ln 2; t of 1 is 12.706
    half = math.log(2) / 2
    assert row["log_ratio"] == pytest.approx(-half)
    assert row["log_ratio_low"] == pytest.approx(-half - 12.706 * half, rel=1e-4)
    assert row["log_ratio_high"] == pytest.approx(-half + 12.706 * half, rel=1e-4)
    assert row["token_share"] == pytest.approx(40 / 1600)


def test_every_algorithm_is_compared_with_every_other_baseline_at_each_length(study):
    longer = study.assign(length=2048, algorithm=study["algorithm"] + "-public")
    three = pd.concat([study, study[study["algorithm"] == "evolution"].assign(length=2048), longer])
    table = studies.summary_table(three)
    assert table[["length", "algorithm", "baseline"]].values.tolist() == [
        [1024, "auto", "evolution"],
        [1024, "evolution", ""],
        [2048, "auto-public", "evolution"],
        [2048, "auto-public", "evolution-public"],
        [2048, "evolution", "evolution-public"],
        [2048, "evolution-public", "evolution"],
    ]
    assert table["wins"].isna().tolist() == [False, True] + [False] * 4


def test_what_makes_a_seed_hard_for_both_changes_no_comparison(study):
    harder = study.copy()
    harder.loc[harder["seed"] == 2, "heldout_ppl"] *= 3
    names = ["wins", "log_ratio", "log_ratio_low", "log_ratio_high", "token_share"]
    before, after = (studies.summary_table(table)[names].iloc[0] for table in (study, harder))
    assert after.tolist() == pytest.approx(before.tolist())


def test_a_summary_read_back_has_the_same_cells(study, tmp_path):
    # 007 and an empty baseline stay what they are
    table = studies.summary_table(study.replace("auto", "007"))
    write_table(table, tmp_path / "table.csv", tmp_path / "table.md")
    assert to_markdown(read_table(tmp_path / "table.csv")) == (tmp_path / "table.md").read_text()


def test_a_plan_without_searches_has_empty_tables(tmp_path):
    plan = Plan("e", {})
    table = studies.search_table(Results(plan, tmp_path))
    assert tuple(table.columns) == studies.SEARCH_COLUMNS
    assert tuple(studies.summary_table(table).columns) == studies.SUMMARY_COLUMNS
    empty = studies.study_convergence(Results(plan, tmp_path))
    assert tuple(empty.columns) == studies.CONVERGENCE_COLUMNS
    assert not search_convergence.draw(empty).axes[0].axison


# From histories -----------------------------------------------------------------------------------

ON_FEW = {
    # document by document, as in a race, and a selection on all three
    0: [(100, [1], 3.0), (300, [0, 1, 2], 9.0), (400, [0, 1, 2], None), (500, [0, 1, 2], 8.0)],
    1: [(200, [0], 2.0), (600, [2, 0, 1], 6.0), (700, [0, 1], 1.0), (800, [0, 1, 2], 7.0)],
}
"""scored tokens, documents and perplexity of the lines of a history, by seed"""


@pytest.fixture
def store(tmp_path):
    """A store with two searches of one algorithm, and their plan."""
    nodes = {}
    for seed, lines in ON_FEW.items():
        settings = {"study": "cma", "seed": seed, "target_length": 2048}
        node = nodes[str(seed)] = Node("search", str(seed), node_settings("search", settings))
        folder = tmp_path / node.key
        folder.mkdir(parents=True)
        names = ("scored_tokens", "documents", "perplexity")
        records = [json.dumps(dict(zip(names, line, strict=True))) for line in lines]
        (folder / "history.jsonl").write_text("\n".join(records))
        facts = {
            "scored_tokens": 800,
            "perplexity": 6.0,
            "bos": "yes",
            "held_out_perplexity": 5.0 + seed,
        }
        RopeFactors(
            factors=(1.0,), original_length=1, target_length=2, method="longrope", provenance=facts
        ).save(folder / "factors.json")
        cost = {"seconds": 3.5, "peak_memory_mb": 256.0}
        (folder / "manifest.json").write_text(json.dumps(cost))
    return Plan("e", nodes), tmp_path


def test_a_row_of_the_table_is_what_factors_and_manifest_say(store):
    table = studies.search_table(Results(*store))
    assert table.values.tolist() == [
        ["cma", 0, 2048, "yes", 800, 6.0, 5.0, 3.5, 256.0],
        ["cma", 1, 2048, "yes", 800, 6.0, 6.0, 3.5, 256.0],
    ]


def test_only_candidates_scored_on_all_documents_are_the_best_so_far(store):
    table = studies.study_convergence(Results(*store))
    assert table[["seed", "scored_tokens", "best"]].values.tolist() == [
        [0, 300, 9.0], [0, 400, 9.0], [0, 500, 8.0], [1, 600, 6.0], [1, 800, 6.0],
    ]  # fmt: skip


def test_a_band_begins_where_every_seed_is_known_and_ends_with_the_last(store):
    band = studies.band_over_seeds(studies.study_convergence(Results(*store)))
    assert band.reset_index().values.tolist() == [[600, 7.0, 6.0, 8.0], [800, 7.0, 6.0, 8.0]]


def test_the_figure_has_a_line_a_band_and_an_end_for_each_algorithm(store):
    table = studies.study_convergence(Results(*store))
    both = pd.concat([table, table.assign(algorithm="evolution", best=table["best"] * 1.1)])
    figure = search_convergence.draw(both, note="a toy")
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_xscale()) == ("2k tokens", "log")
    assert [len(axes.collections), len(axes.lines)] == [2, 4]
    assert axes.get_legend_handles_labels()[1] == ["cma (2 seeds)", "evolution (2 seeds)"]
    assert axes.lines[1].get_xydata().tolist() == [[0.0008, 7.0]]
    assert "a toy" in figure.get_suptitle()


# The benchmark ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    """The module benchmarks/search.py."""
    pytest.importorskip("torch")
    path = ROOT / "benchmarks" / "search.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_search", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class AwayFromTwo:
    """A worker whose loss is the distance of the log factors from ln 2, at any attention scale."""

    def score(self, unit):
        away = np.log(unit.factors.factors) - np.log(2)
        slopes = (*(2 * away / len(away) * unit.text.num_scored).tolist(), 0.0)
        loss = float(np.mean(away**2)) * unit.text.num_scored
        return Score(loss, unit.text.num_scored, slopes if unit.gradient else None)


def test_the_benchmark_runs_every_algorithm_and_takes_the_first_below_the_evolution(benchmark):
    texts = [Text(np.zeros(1024, dtype=np.int64), {"number": number}) for number in range(3)]
    problem, runs = benchmark.problem_at(1024), {}
    for name in benchmark.ALGORITHMS:
        settings = benchmark.settings_of(name, 0)
        runs[name] = benchmark.searched(problem, settings, benchmark.Timed(AwayFromTwo()), texts)
    table = benchmark.table_of(runs, 1024).set_index("algorithm")
    assert table["documents"]["evolution"] == 16 * 3
    assert math.isnan(table["below"]["evolution"])
    assert table["share"]["gradient"] == table["below"]["gradient"] / 48
    assert (table["beside, %"] > 0).all()


def test_only_candidates_on_all_documents_are_below(benchmark):
    names = ("scored_tokens", "documents", "perplexity")
    run = benchmark.Run([dict(zip(names, line, strict=True)) for line in ON_FEW[1]], 2.0, 1.0)
    assert (run.best, run.tokens_below(6.5)) == (6.0, 600)
    assert math.isnan(run.tokens_below(6.0))
