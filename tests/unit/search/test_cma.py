"""CMA-ES on knots and few documents: the curve, the budget, the documents, the selection."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from searches import GEOMETRY, PROBLEM, SCALE, SEED, SEEDS, SPACE, losses, make, noise, run

from longrope.search.algorithms.cma import Cma
from longrope.search.algorithms.curves import Knots
from longrope.search.algorithms.space import Individual
from longrope.settings.algorithms import CmaSettings

DEFAULTS = CmaSettings().model_dump(exclude={"name"})
levels = st.lists(st.integers(0, SPACE.top), min_size=16, max_size=16).map(sorted).map(tuple)


def make_default(seed=0, num_documents=5):
    """Return the algorithm with its default settings and as many documents as a search has."""
    return make("cma", seed=seed, num_documents=num_documents, **DEFAULTS)


def begun_at(start, cma):
    """Return the algorithm after its first iteration, with one individual as its only closed form."""
    problem = replace(PROBLEM, seeds={"start": start})
    algorithm = Cma(problem, CmaSettings(**cma), 1, SEED)
    algorithm.tell(algorithm.ask(), losses([[1.0]]))
    return algorithm


# The curve ----------------------------------------------------------------------------------------


def test_three_knots_over_five_pairs_have_their_hand_computed_weights():
    # knots at pairs 0, 2 and 4; those between belong to both neighbours by halves
    expected = [[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 1]]
    np.testing.assert_allclose(Knots(np.zeros(5), 3).basis, expected)


@given(st.integers(1, 200), st.integers(2, 20))
def test_weights_of_the_knots_sum_to_one_at_every_pair(num_pairs, num_knots):
    weights = Knots(np.zeros(num_pairs), num_knots).basis
    assert weights.shape == (num_pairs, num_knots)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1)


@given(levels, st.sampled_from(SPACE.start_tokens))
def test_a_sample_of_zeros_is_the_closed_form_itself(start, num_start_tokens):
    start = Individual(start, num_start_tokens)
    algorithm = begun_at(start, DEFAULTS | {"step": 1e-12})
    assert {c.individual for c in algorithm.ask()} == {start}


def test_the_projection_to_a_rising_curve_raises_it_as_much_as_it_lowers_it():
    # Half of all bends of a flat curve fall; a running maximum would lift each of them.
    flat = Individual((300,) * 16, 0)
    algorithm = begun_at(flat, DEFAULTS | {"step": 0.1, "generation_size": 400})
    logs = [np.log(SPACE.factors(c.individual)) for c in algorithm.ask()]
    assert np.mean(logs) == pytest.approx(np.log(4), abs=0.01)


def test_a_larger_step_bends_the_curve_further():
    def spread(step):
        algorithm = make("cma", step=step)
        algorithm.tell(algorithm.ask(), losses([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0]]))
        logs = [np.log(SPACE.factors(c.individual)) for c in algorithm.ask()]
        return np.abs(np.array(logs) - np.log(SPACE.factors(SEEDS["ntk"]))).mean()

    # NTK-aware factors rise steadily, so that little is lost to the projection
    assert spread(0.1) == pytest.approx(0.05, rel=0.7)
    assert spread(0.05) < spread(0.1) < spread(0.2)


# The budget ---------------------------------------------------------------------------------------


def test_the_default_search_scores_74_documents_at_most():
    # three closed forms, 6 generations of 8 and three numbers of start tokens on one document each;
    # four on all five, if the start tokens help
    counts = [sum(len(c.documents) for c in group) for group in run(make_default(), noise(0))]
    assert counts[:-1] == [3, 8, 8, 8, 8, 8, 8, 3]
    assert counts[-1] in (15, 20)
    assert sum(counts) <= 74


def test_candidates_say_where_they_come_from():
    origins = [[c.origin for c in group] for group in run(make("cma"), few_start_tokens)]
    assert origins == [
        ["seed:linear", "seed:ntk", "seed:yarn"],
        *4 * [6 * ["cma"]],
        3 * ["start_tokens"],
        ["selection:average", "selection:mean", "selection:start"],
    ]


def few_start_tokens(individual, document):
    """Return a loss that rises with the start tokens."""
    return noise(0)(individual, document) + individual.num_start_tokens


def test_what_is_selected_from_twice_is_scored_once():
    # With one generation the last mean is the average of all.
    last = run(make("cma", num_generations=1), few_start_tokens)[-1]
    assert [c.origin for c in last] == ["selection:average", "selection:start"]


def test_start_tokens_that_help_are_found_and_compared_with_none():
    def loss(individual, document):
        return noise(0)(replace(individual, num_start_tokens=0), document) - (
            5.0 * (individual.num_start_tokens == 2)
        )

    algorithm = make("cma")
    asked = run(algorithm, loss)
    assert algorithm.best.individual.num_start_tokens == 2
    assert {c.individual.num_start_tokens for c in asked[-1]} == {0, 2}


# The documents ------------------------------------------------------------------------------------


@effort(max_examples=10)
@given(st.integers(0, 1000), st.integers(1, 7))
def test_all_of_a_generation_are_scored_on_the_same_documents(seed, batch):
    algorithm = make("cma", seed=seed, num_documents=5, batch_documents=batch)
    *generations, _, selection = run(algorithm, noise(seed))
    for group in generations:
        drawn = {c.documents for c in group}
        assert len(drawn) == 1
        assert len(drawn.pop()) == min(batch, 5)
    assert {c.documents for c in selection} == {(0, 1, 2, 3, 4)}


def test_every_document_is_drawn_sooner_or_later():
    algorithm = make("cma", num_documents=4, batch_documents=1, num_generations=40)
    drawn = [group[0].documents[0] for group in run(algorithm, noise(0))[:-2]]
    # 41 draws of one out of four
    assert np.bincount(drawn, minlength=4).min() >= 3


# The selection ------------------------------------------------------------------------------------


@effort(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_losses_the_result_is_no_worse_than_the_closed_form_it_started_from(seed):
    loss = noise(seed)
    algorithm = make("cma", seed=seed)
    asked = run(algorithm, loss)
    means = {c.individual: np.mean([loss(c.individual, d) for d in c.documents]) for c in asked[0]}
    start = min(means, key=means.__getitem__)
    assert start in {c.individual for c in asked[-1]}
    on_all = np.mean([loss(start, document) for document in range(3)])
    assert algorithm.best.loss <= on_all + 1e-12


def test_before_the_selection_the_best_is_the_best_closed_form():
    algorithm = make("cma")
    algorithm.tell(algorithm.ask(), losses([[3.0, 3.0], [1.0, 2.0], [2.0, 2.0]]))
    assert algorithm.best.individual == SEEDS["ntk"]
    assert algorithm.best.loss == 1.5
    candidates = algorithm.ask()
    algorithm.tell(candidates, losses([[0.0, 0.0]] * len(candidates)))
    assert algorithm.best.individual == SEEDS["ntk"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_failed_samples_do_not_stop_the_search_and_drive_it_away(bad):
    # All samples fail whose last factor is above the scale.
    def fails(individual):
        return SPACE.factors(individual)[-1] > SCALE

    def loss(individual, document):
        factors = SPACE.factors(individual)
        return bad if fails(individual) else 100.0 - float(np.log(factors).sum())

    algorithm = make("cma", num_documents=5, **DEFAULTS | {"num_generations": 20})
    generations = run(algorithm, loss)[1:-2]
    failed = [sum(fails(c.individual) for c in group) for group in generations]
    assert sum(failed[:5]) > 5, "the test needs failures"
    assert sum(failed[-5:]) < sum(failed[:5])
    assert math.isfinite(algorithm.best.loss)


PLACE = np.arange(GEOMETRY.num_pairs) / (GEOMETRY.num_pairs - 1)
TARGET = np.log(SCALE) * PLACE**0.5 + 0.1 * np.sin(np.pi * PLACE)
"""log factors of a smooth curve that is no closed form"""


def smooth(seed):
    """Return a quadratic in log factors, least near the smooth curve.

    Documents differ in how hard they are, by far more than candidates do, and a little in where their
    minimum is.
    """
    generator = np.random.default_rng(seed)
    hardness = generator.normal(0, 5, 5)
    shift = generator.normal(0, 0.05, (5, GEOMETRY.num_pairs))

    def loss(individual, document):
        away = np.log(SPACE.factors(individual)) - TARGET - shift[document]
        return float(np.mean(away**2) + hardness[document])

    return loss


def test_by_default_it_beats_the_best_closed_form_of_a_smooth_problem_by_far():
    left = []
    for seed in range(8):
        loss = smooth(seed)

        def excess(individual, loss=loss):
            curve = SPACE.nearest(np.exp(TARGET).tolist())
            return float(np.mean([loss(individual, d) - loss(curve, d) for d in range(5)]))

        algorithm = make_default(seed)
        run(algorithm, loss)
        left.append(excess(algorithm.best.individual) / min(map(excess, SEEDS.values())))
    assert max(left) < 1 and np.median(left) < 1 / 3, left
