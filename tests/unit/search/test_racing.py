"""Racing: who is dropped, how sure that is, what is told of those who are."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from searches import PROBLEM, FakeObjective, away_from_four, hill, make, noise, told

from longrope.search.algorithms.forecast import learned
from longrope.search.algorithms.racing import RECENT, Race, Raced
from longrope.search.algorithms.registry import ALGORITHMS
from longrope.search.driver import search

NOTHING = np.zeros((0, 4))


def layout(deviation, num_rows):
    """Return losses on 4 documents whose rows differ by noise, and whose documents differ in hardness."""
    generator = np.random.default_rng(0)
    return generator.normal(0, deviation, (num_rows, 4)) + generator.normal(0, 5, 4)


def alike(generator, num_rows, noise):
    """Return losses of candidates on 5 documents that matter unequally, up to noise."""
    values = generator.normal(0, 1, (num_rows, 1)) * [1.0, 0.5, 2.0, 1.0, 0.7]
    return values + generator.normal(0, noise, (num_rows, 5)) + [3.0, 4.0, 5.0, 3.5, 4.5]


def test_who_is_far_behind_the_last_that_is_kept_is_dropped_after_one_document():
    race = Race([2, 0, 1, 3], 4, NOTHING, 2, layout(0.1, 50))
    first = race.documents[0]
    near = layout(0.1, 50)[:, first].mean()
    race.tell([[near - 0.2], [near - 0.1], [near], [near + 7]], 0.05)
    # recent candidates differ by 0.1 from document to document, not by 7
    assert race.running == [0, 1, 2]
    assert race.documents[0] == first
    assert len(race.documents) == 2


def test_the_document_that_says_most_of_the_others_is_the_first_once_they_are_known():
    field = alike(np.random.default_rng(0), 100, 0.3)
    assert Race([0, 1, 2, 3, 4], 3, field[:0], 1, field).documents == [2]
    assert Race([4, 1, 2, 3, 0], 3, field[:0], 1, field[:19]).documents == [4]


def test_without_rivals_nobody_is_dropped_after_one_document_and_who_lags_after_two():
    race = Race([0, 1, 2, 3], 3, NOTHING, 1, NOTHING)
    race.tell([[1.0], [1.1], [9.0]], 0.05)
    assert race.running == [0, 1, 2]
    race.tell([[1.0, 5.0], [1.1, 5.0], [9.0, 13.1]], 0.05)
    assert race.running == [0, 1]


def test_rivals_that_were_told_before_compete():
    rivals = layout(1e-6, 2)
    race = Race([0, 1, 2, 3], 2, rivals, 2, NOTHING)
    race.tell([[rivals[0, 0] + 1], [rivals[0, 0] - 1]], 0.05)
    assert race.running == [1]


def test_a_dropped_candidate_gets_the_losses_that_were_foreseen():
    rivals = np.array([[50.0, 50.0], [50.0, 50.01]])
    race = Race([0, 1], 2, rivals, 1, NOTHING[:, :2])
    race.tell([[1.0], [3.0]], 0.05)
    race.tell([[1.0, 5.0]], 0.05)
    assert race.over
    # both were expected to have the same on the second document as on the first, in the mean of all
    whole, dropped = race.completed()
    assert whole.tolist() == [1.0, 5.0]
    assert dropped[0] == pytest.approx(3.0, abs=1e-6)
    assert dropped.mean() > whole.mean()


def test_who_was_dropped_is_told_behind_the_last_kept_even_where_that_one_disappoints():
    rivals = np.array([[1.0, 1.0], [1.0, 1.01]])
    race = Race([0, 1], 2, rivals + 100, 1, NOTHING[:, :2])
    race.tell([[1.0], [2.0]], 0.05)
    assert race.running == [0]
    race.tell([[1.0, 50.0]], 0.05)
    whole, dropped = race.completed()
    assert whole.tolist() == [1.0, 50.0]
    assert dropped.mean() > whole.mean()


def test_a_failed_candidate_is_dropped_and_told_as_failed():
    race = Race([0, 1], 2, NOTHING[:, :2], 1, NOTHING[:, :2])
    race.tell([[np.nan], [3.0]], 0.05)
    assert race.running == [1]
    race.tell([[3.0, 5.0]], 0.05)
    assert race.completed().tolist() == [[np.inf, np.inf], [3.0, 5.0]]


@effort(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 4), st.sampled_from([0, 30]))
def test_without_noise_over_documents_the_kept_are_those_of_all_losses(
    seed, kept, num_rivals, num_recent
):
    generator = np.random.default_rng(seed)
    hardness = generator.normal(0, 10, 4)
    values = generator.permutation(20)[: 8 + num_rivals].astype(float)
    losses = values[:8, None] + hardness
    rivals = values[8:, None] + hardness
    recent = generator.normal(10, 5, num_recent)[:, None] + hardness
    race = Race(generator.permutation(4).tolist(), 8, rivals, kept, recent)
    while not race.over:
        race.tell(losses[np.ix_(race.running, race.documents)].tolist(), 0.05)
    field = np.concatenate([race.completed(), rivals]).mean(axis=1)
    truth = np.concatenate([losses, rivals]).mean(axis=1)
    assert set(np.argsort(field)[:kept]) == set(np.argsort(truth)[:kept])


@pytest.mark.parametrize("error", [0.1, 0.3])
def test_of_those_stopped_no_more_than_stated_are_on_the_wrong_side(error):
    generator = np.random.default_rng(0)
    stopped = early = wrong = 0
    for _ in range(200):
        losses, recent = alike(generator, 64, 0.5), alike(generator, 64, 0.5)
        race = Race([0, 1, 2, 3, 4], 64, recent[:0], 16, recent)
        while not race.over:
            race.tell(losses[np.ix_(race.running, race.documents)].tolist(), error)
        out = set(range(64)) - set(race.running)
        kept = set(np.argsort(race.completed().mean(axis=1))[:16].tolist())
        stopped += len(out)
        early += len(out & kept)
        wrong += len(out & (kept ^ set(np.argsort(losses.mean(axis=1))[:16].tolist())))
    assert stopped > 0.7 * 200 * 64
    assert early > 0.5 * 200 * 16
    assert 0 < wrong / stopped < error


def test_races_that_learn_from_races_stay_as_sure_as_those_that_learn_from_all_losses():
    # what was foreseen lies on the line that it was foreseen from: taken for losses, it tells of less spread
    generator = np.random.default_rng(0)
    before, field, deviations = alike(generator, 64, 0.5), alike(generator, 64, 0.5), []
    for _ in range(40):
        losses = alike(generator, 64, 0.5)
        race = Race([0, 1, 2, 3, 4], 64, field[:0], 32, np.concatenate([before, field]))
        deviations.append(race._spread.foresee(np.zeros((1, 1)), [2])[1])
        while not race.over:
            race.tell(losses[np.ix_(race.running, race.documents)].tolist(), 0.01)
        before, field = field, race.scored
    assert np.isnan(field).any()
    # given the third document the four others vary by 0.5 around the line and with what it does not tell
    expected = learned(alike(generator, 100_000, 0.5)).foresee(np.zeros((1, 1)), [2])[1]
    assert np.mean(deviations) == pytest.approx(expected, rel=0.05)


def test_the_best_is_never_kept_early_and_is_told_ahead_of_all_that_are():
    generator = np.random.default_rng(3)
    for _ in range(30):
        losses, recent = alike(generator, 32, 0.5), alike(generator, 64, 0.5)
        race = Race([0, 1, 2, 3, 4], 32, recent[:0], 16, recent)
        while not race.over:
            race.tell(losses[np.ix_(race.running, race.documents)].tolist(), 0.1)
        best = int(np.argmin(race.completed().mean(axis=1)))
        assert best in race.running
        np.testing.assert_array_equal(race.completed()[best], losses[best])


def test_of_those_at_the_limit_as_many_catch_up_as_stated():
    # of the candidates with this first loss a tenth have the mean of the line, or a lower one
    generator = np.random.default_rng(1)
    recent, others = alike(generator, 5000, 0.5), alike(generator, 200_000, 0.5)
    near = others[np.abs(others[:, 2] - 6.0) < 0.05]
    line = float(np.quantile(near.mean(axis=1), 0.1))
    for shift, expected in ((-0.03, []), (0.03, [0])):
        race = Race([0, 1, 2, 3, 4], 1, np.full((1, 5), line + shift), 1, recent)
        assert race.documents == [2]
        race.tell([[6.0]], 0.1)
        assert race.running == expected


def test_a_race_learns_from_the_last_two_on_the_same_documents():
    raced = make("evolution", racing_error=0.1, num_iterations=4)
    seen = []
    while not raced.finished:
        candidates = raced.ask()
        seen.append(len(raced._recent))
        raced.tell(candidates, told(candidates, hill))
    assert sorted(set(seen)) == [0, 1, RECENT]


@pytest.mark.parametrize("name", ["evolution", "evolution-public"])
def test_where_documents_differ_alike_for_all_parents_are_the_best_of_all_for_far_fewer_scores(
    name,
):
    raced = make(name, num_iterations=20, racing_error=0.05)
    scored, losses = set(), {}
    while not raced.finished:
        iteration, candidates = raced.iteration, raced.ask()
        scored |= {(c.individual, d) for c in candidates for d in c.documents}
        means = [np.mean([hill(c.individual, d) for d in range(3)]) for c in candidates]
        losses.update(zip([c.individual for c in candidates], means, strict=True))
        raced.tell(candidates, told(candidates, hill))
        if raced.iteration > iteration:
            kept = [losses[parent.individual] for parent in raced._algorithm.parents]
            assert sorted(kept) == sorted(losses.values())[: len(kept)]
    assert raced.best.loss == min(losses.values())
    assert len(scored) < 0.6 * 3 * len(losses)


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
def test_of_a_generation_the_better_half_must_come_out_right_of_seeds_all_and_else_the_best(name):
    algorithm = make(name)
    kept = {}
    while not algorithm.finished:
        candidates = algorithm.ask()
        kind = candidates[0].origin.partition(":")[0]
        kept.setdefault(kind, set()).add((algorithm.kept, len(candidates) // 2))
        algorithm.tell(candidates, told(candidates, hill))
    assert all(number == half for number, half in kept.pop("cma"))
    assert {number for number, _ in kept.pop("seed")} == {0}
    assert {number for pairs in kept.values() for number, _ in pairs} == {1}


def test_where_every_loss_is_wanted_nobody_races():
    raced = make("auto", racing_error=0.3, auto={"start_documents": 3})
    first = raced.ask()
    assert {candidate.documents for candidate in first} == {(0, 1, 2)}
    raced.tell(first, told(first, noise(0)))
    assert raced.iteration == 1
