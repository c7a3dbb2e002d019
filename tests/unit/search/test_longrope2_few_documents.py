"""LongRoPE2's critical pair and attention scales in the searches on few documents."""

from dataclasses import replace

import numpy as np
import pytest
from search_spaces import SPACES, is_valid, problem_in
from searches import SCALE, SEED, noise, run, small

from longrope.rope.critical import with_derived
from longrope.search.algorithms import registry
from longrope.search.algorithms.algorithm import Loss
from longrope.search.algorithms.space import AttentionGrid

few_documents = pytest.mark.parametrize("name", ["cma", "auto", "gradient"])


PATIENT = {
    "cma": {"num_generations": 10},
    "auto": {"ramp_num_generations": 8},
    "gradient": {"num_steps": 30},
}
"""budgets that suffice for a loss without noise"""


def begin(name, space, **changes):
    """Return an algorithm on a space; `own` are settings under its name."""
    settings = small(name, **PATIENT[name] | changes)
    return registry.make(problem_in(space), settings, num_documents=3, seed=SEED)


class Bowl:
    """A quadratic in the log factors and the log attention scale, with its own derivatives.

    Derived pairs count too, each by itself: what they lend to the critical pair is the search's to know.
    """

    def __init__(self, space, factor, attention_scale):
        self.space = space
        individual = space.nearest([factor] * space.num_pairs)
        self.goal = np.append(np.log(space.factors(individual)), np.log(attention_scale))

    def away(self, individual):
        scale = self.space.attention_scale(individual) or 1.0
        return np.append(np.log(self.space.factors(individual)), np.log(scale)) - self.goal

    def loss(self, individual):
        return float(np.sum(self.away(individual) ** 2))

    def fill(self, algorithm):
        """Run an algorithm to its end on this loss."""
        while not algorithm.finished:
            candidates = algorithm.ask()
            losses = [
                Loss(self.loss(c.individual), tuple(2 * self.away(c.individual)))
                for c in candidates
            ]
            algorithm.tell(
                candidates,
                [[loss] * len(c.documents) for loss, c in zip(losses, candidates, strict=True)],
            )


@few_documents
@pytest.mark.parametrize("setting", ["theory", 3, 0])
def test_every_individual_asked_for_is_valid(setting, name):
    groups = run(begin(name, SPACES[setting]), noise(1))
    individuals = [candidate.individual for group in groups for candidate in group]
    assert all(is_valid(SPACES[setting], individual) for individual in individuals)
    assert len({individual.attention_level for individual in individuals}) > 1


@few_documents
@pytest.mark.parametrize("least", [10.0, 14.0])
def test_it_nears_the_least_loss_where_derived_pairs_follow_the_critical_one(least, name):
    space = replace(SPACES["theory"], attention=None)
    bowl, algorithm = Bowl(space, least, 1.0), begin(name, space)
    bowl.fill(algorithm)
    # all closed forms are one and the same individual there
    assert algorithm.best.loss < bowl.loss(space.nearest([SCALE] * 16)) / 4


@few_documents
@pytest.mark.parametrize("best", [1.05, 1.45])
def test_it_nears_the_best_attention_scale(best, name):
    space = SPACES["theory"]
    bowl, algorithm = Bowl(space, SCALE, best), begin(name, space)
    bowl.fill(algorithm)
    scale = space.attention_scale(algorithm.best.individual)
    # seeds have 1.2
    assert abs(scale - best) < abs(1.2 - best) / 2


def test_a_variable_of_one_moves_the_attention_scale_by_a_quarter_of_its_range():
    assert AttentionGrid(low=1.0, high=1.5, step=0.1, start=1.2).unit == 0.125


def test_knots_start_at_the_attention_scale_that_the_ramp_came_to():
    # steps of almost nothing: knots change nothing
    auto = begin("auto", SPACES["theory"], knot_step=1e-9)
    groups = run(auto, lambda individual, document: -float(individual.attention_level))
    (ramp,) = {c.individual.attention_level for c in groups[-1] if c.origin != "selection:start"}
    assert ramp > groups[0][0].individual.attention_level
    # before the start tokens and the selection, the last generation is one of knots
    assert {c.individual.attention_level for c in groups[-3]} == {ramp}


def test_what_derived_pairs_lend_to_the_critical_one_has_its_hand_computed_value():
    # ln factor_i = i/3 ln factor_3: 4 + 1/3 * 3 + 2/3 * 6
    slopes = np.array([100.0, 3.0, 6.0, 4.0, 7.0])
    assert with_derived(slopes, 3).tolist() == [0, 0, 0, 9.0, 7.0]
    assert with_derived(slopes, 0).tolist() == slopes.tolist()
