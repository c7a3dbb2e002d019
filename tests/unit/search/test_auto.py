"""The search on a ramp and then on knots: the ramp's shape, the budget, what it finds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from searches import GEOMETRY, PROBLEM, SCALE, SEEDS, SPACE, make, noise, run, small

from longrope.search.algorithms.auto import Auto
from longrope.search.algorithms.curves import Ramp, log_turns, ramp_point
from longrope.search.algorithms.ramping import spread
from longrope.settings.algorithms import FIRST_RAMPS, AutoSettings

DEFAULTS = AutoSettings().model_dump(exclude={"name"})
TURNS = log_turns(GEOMETRY, np.ones(GEOMETRY.num_pairs), GEOMETRY.original_length)
RAMP_SEEDS = ["seed:ramp-1.4-0.7", "seed:ramp-32-1", "seed:ramp-64-2"]
points = st.lists(st.floats(-3, 3), min_size=3, max_size=3).map(np.array)


def make_default(seed=0):
    """Return the algorithm with its default settings and as many documents as a search has."""
    return make("auto", seed=seed, num_documents=5, **DEFAULTS)


# The ramp -----------------------------------------------------------------------------------------


def test_at_the_start_its_middle_is_a_pair_that_turns_once():
    # 0.7 wide in ln(turns): at 0.35 it begins, at -0.35 it ends
    ramp = Ramp(np.array([3.0, 0.35, 0.175, 0.0, -0.35, -4.0]), scale=16.0)
    shares = ramp.log_factors(np.zeros(3)) / np.log(16.0)
    np.testing.assert_allclose(shares, [0, 0, 0.25, 0.5, 1, 1], atol=1e-12)


def test_its_variables_move_the_middle_stretch_the_width_and_raise_the_end():
    ramp = Ramp(np.array([2.0, 0.5, 0.0, -2.0]), scale=4.0)
    middle = ramp.log_factors(np.array([1.0, 0.0, 0.0]))
    assert middle[1] == pytest.approx(np.log(4.0) / 2)
    wide = ramp.log_factors(np.array([0.0, 1.0, 0.0]))
    # 0.7 exp(0.7) wide: a pair 0.5 above the middle has 0.5 - 0.5 / 1.41 of the height
    assert wide[1] == pytest.approx(np.log(4.0) * (0.5 - 0.5 / (0.7 * np.exp(0.7))))
    high = ramp.log_factors(np.array([0.0, 0.0, 1.0]))
    assert high[-1] == pytest.approx(np.log(4.0) + 0.25)


@pytest.mark.parametrize(("fast", "slow"), [(32.0, 1.0), (1.4, 0.7)])
def test_a_ramp_between_two_numbers_of_turns_rises_from_the_one_to_the_other(fast, slow):
    turns = np.log([fast * 2, fast, np.sqrt(fast * slow), slow, slow / 2])
    shares = Ramp(turns, scale=4.0).log_factors(ramp_point(fast, slow)) / np.log(4.0)
    np.testing.assert_allclose(shares, [0, 0, 0.5, 1, 1], atol=1e-12)


def test_turns_are_those_of_the_window_the_model_knows_under_its_own_factors():
    # theta^(i/P) * 2 pi tokens a turn: 256 / 2 pi at pair 0; factors of 2 double the period
    assert TURNS[0] == pytest.approx(np.log(256 / (2 * np.pi)))
    assert TURNS[8] == pytest.approx(np.log(256 / (2 * np.pi)) - np.log(10_000) / 2)
    tuned = log_turns(GEOMETRY, np.full(GEOMETRY.num_pairs, 2.0), 512)
    np.testing.assert_allclose(tuned, TURNS)


@given(points)
def test_it_never_falls_and_stays_between_one_and_its_height(point):
    logs = Ramp(TURNS, SCALE).log_factors(point)
    assert (np.diff(logs) >= -1e-12).all()
    assert logs.min() >= 0 and logs.max() <= max(np.log(SCALE) + 0.25 * point[2], 0) + 1e-12


@given(points, st.floats(0.5, 40.0))
def test_its_derivatives_are_those_of_finite_differences(point, scale):
    ramp, step = Ramp(TURNS, scale), 1e-6
    derivatives = ramp.derivatives(point)
    for variable, moved in enumerate(np.eye(3) * step):
        slopes = [
            (ramp.log_factors(point + moved) - ramp.log_factors(point)) / step,
            (ramp.log_factors(point) - ramp.log_factors(point - moved)) / step,
        ]
        # at a kink, the slope of either side
        smooth = np.isclose(*slopes, rtol=1e-3, atol=1e-4)
        at = smooth, variable
        np.testing.assert_allclose(derivatives[at], slopes[0][smooth], rtol=1e-2, atol=1e-3)
    assert derivatives.shape == (GEOMETRY.num_pairs, 3)


# The search ---------------------------------------------------------------------------------------


def test_the_default_search_scores_a_hundredth_of_the_published_documents_at_most():
    # three closed forms and three ramps on three documents; 4 generations of 4, 2 of 4 and three numbers
    # of start tokens on one each; four on all five at most, of which three have scored the start
    counts = [sum(len(c.documents) for c in group) for group in run(make_default(), noise(0))]
    assert counts[:-1] == [18, 4, 4, 4, 4, 4, 4, 3]
    assert counts[-1] in (15, 20)
    # with 4 of 14 numbers of start tokens
    assert sum(counts[:-2]) + 4 + 20 - 3 <= 6720 / 100


@given(st.lists(st.integers(0, 99), min_size=1, max_size=20, unique=True), st.integers(1, 9))
def test_choices_are_thinned_in_their_order_and_keep_the_first(choices, count):
    thinned = spread(choices, count)
    assert len(thinned) == min(count, len(choices)) and thinned[0] == choices[0]
    positions = [choices.index(choice) for choice in thinned]
    assert positions == sorted(positions)


def test_five_of_fourteen_numbers_of_start_tokens_are_spread_from_first_to_last():
    # places 0, 3.25, 6.5, 9.75 and 13, rounded
    assert spread(range(14), 5) == (0, 3, 6, 10, 13)


def test_candidates_say_where_they_come_from():
    origins = [[c.origin for c in group] for group in run(make("auto"), noise(0))]
    assert origins[0] == ["seed:linear", "seed:ntk", "seed:yarn", *RAMP_SEEDS]
    assert len(RAMP_SEEDS) == FIRST_RAMPS
    assert {origin for group in origins[1:6] for origin in group} == {"cma"}
    assert set(origins[-2]) == {"start_tokens"}
    assert {"selection:ramp", "selection:knots", "selection:start"} <= set(origins[-1])


def test_without_generations_of_knots_there_is_only_the_ramp():
    groups = run(make("auto", knot_num_generations=0), noise(0))
    assert len(groups) == 1 + 3 + 1 + 1
    assert "selection:knots" not in {c.origin for c in groups[-1]}


def ramp_problem(seed, best=(-1.5, 1.0, 0.5)):
    """Return a quadratic in log factors, least at a ramp elsewhere; documents differ in hardness."""
    target = Ramp(TURNS, SCALE).log_factors(np.array(best))
    generator = np.random.default_rng(seed)
    hardness = generator.normal(0, 5, 5)
    shift = generator.normal(0, 0.05, (5, GEOMETRY.num_pairs))

    def loss(individual, document):
        away = np.log(SPACE.factors(individual)) - target - shift[document]
        return float(np.mean(away**2) + hardness[document])

    return loss, lambda point: float(np.mean((np.log(SPACE.factors(point)) - target) ** 2))


def test_by_default_it_comes_closer_to_another_ramp_than_any_closed_form_and_its_start():
    left = []
    for seed in range(8):
        loss, distance = ramp_problem(seed)
        algorithm = make_default(seed)
        starts = [c.individual for c in algorithm.ask()]
        run(algorithm, loss)
        left.append(distance(algorithm.best.individual) / min(map(distance, starts)))
    assert max(left) < 1 and np.median(left) < 1 / 2, left


@pytest.mark.parametrize(("fast", "slow"), [(1.4, 0.7), (32.0, 1.0), (64.0, 2.0)])
def test_generations_begin_around_the_first_ramp_that_is_best(fast, slow):
    target = ramp_point(fast, slow)
    loss, _ = ramp_problem(0, target)
    groups = run(make("auto", ramp_step=1e-9), loss)
    begun = {c.individual for c in groups[1]}
    assert begun == {SPACE.nearest(np.exp(Ramp(TURNS, SCALE).log_factors(target)).tolist())}


def test_one_document_unlike_the_others_does_not_choose_where_generations_begin():
    # That one wants the ramp that the others want least; three of five documents are asked.
    target = ramp_point(1.4, 0.7)
    loss, _ = ramp_problem(0, target)

    def odd(individual, document):
        return loss(individual, document) * (-1 if document == 2 else 1)

    expected = SPACE.nearest(np.exp(Ramp(TURNS, SCALE).log_factors(target)).tolist())
    for seed in range(8):
        algorithm = make("auto", seed=seed, num_documents=5, **DEFAULTS | {"ramp_step": 1e-9})
        assert {c.individual for c in run(algorithm, odd)[1]} == {expected}


@effort(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_losses_the_result_is_no_worse_than_the_closed_form_it_started_from(seed):
    loss = noise(seed)
    algorithm = make("auto", seed=seed)
    asked = run(algorithm, loss)
    means = {c.individual: np.mean([loss(c.individual, d) for d in c.documents]) for c in asked[0]}
    start = min(means, key=means.__getitem__)
    assert algorithm.best.loss <= np.mean([loss(start, d) for d in range(3)]) + 1e-12


def test_on_a_tuned_model_the_ramp_starts_where_that_model_turns_once():
    # tuned to 4 times the window under factors of 4: every pair turns as often as before
    tuned = replace(PROBLEM, base=(4.0,) * 16, source_length=1024, target_length=8192)
    pretrained, other = (Auto(problem, small("auto"), 3, 0) for problem in (PROBLEM, tuned))
    assert pretrained.ask()[-1].individual == other.ask()[-1].individual
    assert pretrained.ask()[-1].individual not in SEEDS.values()
