"""Racing: who is dropped, how sure that is, what is told of those who are."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from searches import PROBLEM, FakeObjective, away_from_four, hill, make, told

from longrope.search.algorithm import Loss
from longrope.search.algorithms import ALGORITHMS
from longrope.search.driver import search
from longrope.search.racing import Race, Raced, limit


def layout(deviation, num_rows, num_documents=4):
    """Return losses whose rows differ by noise over documents, and whose documents differ in hardness."""
    generator = np.random.default_rng(0)
    noise = generator.normal(0, deviation, (num_rows, num_documents))
    return noise + generator.normal(0, 5, num_documents)


def test_the_limit_is_a_quantile_of_the_error_of_the_remaining_documents():
    # a difference of two has a variance of 2 * 0.09; 1 of 4 documents leaves 1 - 1/4 of it
    expected = norm.ppf(0.95) * 0.3 * math.sqrt(2 * 3 / 4)
    assert limit(layout(0.3, 5000), 0.05, 1, 4) == pytest.approx(expected, rel=0.02)
    assert limit(layout(0.3, 5000), 0.05, 4, 4) == 0


def test_the_spread_is_what_rows_and_columns_do_not_explain():
    # means of rows 1 and 3, of columns 1.5 and 2.5, of all 2: 0.5 and -0.5 are left, with one degree of
    # freedom; a failed candidate tells nothing
    field = np.array([[1.0, 1.0], [2.0, 4.0], [np.inf, 0.0]])
    expected = student.ppf(0.9, 1) * math.sqrt(2 * 4 * 0.25) * math.sqrt(1 - 1 / 2)
    assert limit(field, 0.1, 1, 2) == pytest.approx(expected)


def test_nothing_is_dropped_while_the_spread_is_unknown_or_no_error_is_allowed():
    assert limit(np.ones((1, 4)), 0.05, 1, 5) == math.inf
    assert limit(np.ones((4, 1)), 0.05, 1, 5) == math.inf
    assert limit(layout(1.0, 9), 0.0, 1, 4) == math.inf


def test_who_is_far_behind_the_last_that_is_kept_is_dropped_after_one_document():
    rivals = layout(0.1, 50) + 100
    race = Race([2, 0, 1, 3], 4, rivals, kept=2)
    assert race.documents == [2]
    race.tell([[1.0], [2.0], [2.1], [9.0]], 0.05)
    # the second is the last kept; the rivals differ by 0.1 from document to document, not by 7
    assert race.running == [0, 1, 2]
    assert race.documents == [2, 0]


def test_without_rivals_nobody_is_dropped_after_one_document_and_who_lags_after_two():
    race = Race([0, 1, 2, 3], 3, np.zeros((0, 4)), kept=1)
    race.tell([[1.0], [1.1], [9.0]], 0.05)
    assert race.running == [0, 1, 2]
    race.tell([[1.0, 5.0], [1.1, 5.0], [9.0, 13.1]], 0.05)
    assert race.running == [0, 1]


def test_rivals_that_were_told_before_compete():
    race = Race([0, 1, 2, 3], 2, layout(1e-6, 2), kept=2)
    best = float(layout(1e-6, 2)[:, 0].max())
    race.tell([[best + 1], [best - 1]], 0.05)
    assert race.running == [1]


def test_a_dropped_candidate_gets_the_last_kept_ones_losses_and_its_distance():
    rivals = np.array([[50.0, 50.0], [50.0, 50.01]])
    race = Race([0, 1], 2, rivals, kept=1)
    race.tell([[1.0], [3.0]], 0.05)
    race.tell([[1.0, 5.0]], 0.05)
    assert race.over
    np.testing.assert_allclose(race.completed(), [[1.0, 5.0], [3.0, 7.0]])


@effort(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 4))
def test_without_noise_over_documents_the_kept_are_those_of_all_losses(seed, kept, num_rivals):
    generator = np.random.default_rng(seed)
    hardness = generator.normal(0, 10, 4)
    values = generator.permutation(20)[: 8 + num_rivals].astype(float)
    losses = values[:8, None] + hardness
    rivals = values[8:, None] + hardness
    race = Race(generator.permutation(4).tolist(), 8, rivals, kept)
    while not race.over:
        race.tell(losses[np.ix_(race.running, race.documents)].tolist(), 0.05)
    field = np.concatenate([race.completed(), rivals]).mean(axis=1)
    truth = np.concatenate([losses, rivals]).mean(axis=1)
    assert set(np.argsort(field)[:kept]) == set(np.argsort(truth)[:kept])


@pytest.mark.parametrize("error", [0.1, 0.3])
def test_of_those_at_the_limit_as_many_catch_up_as_stated(error):
    # The difference known after one document of five is just beyond the limit.
    generator = np.random.default_rng(0)
    rivals = generator.normal(0, 1, (40, 5))
    behind = limit(rivals, error, 1, 5)
    noise = generator.normal(0, 1, (100_000, 2, 5))
    differences = noise[:, 1] - noise[:, 0]
    # the true mean difference, given the first document, of which nothing else is known
    rest = differences[:, 1:].mean(axis=1) - differences[:, 0]
    final = behind + 4 / 5 * rest
    assert (final < 0).mean() == pytest.approx(error, abs=0.02)


class Counting:
    """Scores as told and counts what it is asked for the first time."""

    def __init__(self, loss):
        self.loss = loss
        self.scored = set()

    def run(self, algorithm):
        while not algorithm.finished:
            candidates = algorithm.ask()
            for candidate in candidates:
                self.scored |= {(candidate.individual, d) for d in candidate.documents}
            algorithm.tell(
                candidates,
                [[Loss(self.loss(c.individual, d)) for d in c.documents] for c in candidates],
            )
        return algorithm.best


@pytest.mark.parametrize("name", ["evolution", "evolution-public"])
def test_where_documents_differ_alike_for_all_an_evolution_ends_the_same_for_far_less(name):
    whole, raced = Counting(hill), Counting(hill)
    expected = whole.run(make(name, num_iterations=20))
    found = raced.run(make(name, num_iterations=20, racing_error=0.05))
    assert found == expected
    assert len(raced.scored) < 0.7 * len(whole.scored)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_can_race_and_the_winner_is_scored_on_all_documents(name, tmp_path):
    algorithm = make(name, racing_error=0.05)
    assert isinstance(algorithm, Raced)
    history = tmp_path / "h.jsonl"
    best = search(PROBLEM, algorithm, FakeObjective(away_from_four), history, {})
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    won = [line for line in lines if line["factors"] == list(best.factors)]
    assert max(len(line["documents"]) for line in won) == 3


@pytest.mark.parametrize("name", ["cma", "auto"])
def test_of_a_generation_the_better_half_must_come_out_right_and_elsewhere_the_best(name):
    algorithm = make(name)
    kept = {}
    while not algorithm.finished:
        candidates = algorithm.ask()
        kind = candidates[0].origin.partition(":")[0]
        kept.setdefault(kind, set()).add((algorithm.kept, len(candidates) // 2))
        algorithm.tell(candidates, told(candidates, hill))
    assert all(number == half for number, half in kept.pop("cma"))
    assert {number for pairs in kept.values() for number, _ in pairs} == {1}
