"""The evolution as the authors' code has it: budget, seed, bound and operators."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from searches import PROBLEM, SEEDS, hill, losses_under, make, noise, run

from longrope.rope.methods import Geometry, yarn
from longrope.search.algorithms import public
from longrope.search.algorithms.problem import closed_form_seeds, space_for
from longrope.search.algorithms.public import PublicEvolution, mixed_seed
from longrope.search.algorithms.space import Individual, Space
from longrope.settings.algorithms import PublicEvolutionSettings
from longrope.settings.search import SearchMethod

PUBLISHED = PublicEvolutionSettings()
LLAMA2 = Geometry(num_pairs=64, rope_theta=10_000.0, original_length=4096)


def make_at(geometry, scale):
    """Return the algorithm with the published settings on a model's own geometry."""
    space = space_for(geometry, SearchMethod(), scale)
    length = geometry.original_length
    problem = replace(
        PROBLEM,
        space=space,
        geometry=geometry,
        seeds=closed_form_seeds(space, geometry, scale),
        source_length=length,
        target_length=int(scale * length),
    )
    return public.make(problem, PUBLISHED, num_documents=5, seed=0)


def test_at_the_published_budget_1344_individuals_are_scored_and_none_twice():
    # 64, and 40 iterations of 16 + 16
    published = PUBLISHED.model_dump(exclude={"name"})
    asked = [c for group in run(make("evolution-public", **published), hill) for c in group]
    assert len(asked) == len({c.individual for c in asked}) == 64 + 40 * 32 == 1344


def test_the_seed_mixes_factors_where_yarn_mixes_frequencies():
    # Turns in 256 tokens: pairs 0 to 3 of base 10000 make 40.7, 4.07, 0.41 and 0.04 of them, so that the
    # ramp from 32 turns to 1 is 0, 1/2, 1 and 1. Half of 64: 1 + 63 / 2 as a factor, and as a
    # frequency 1 / (1/2 + 1/128).
    geometry = Geometry(num_pairs=4, rope_theta=10_000.0, original_length=256)
    algorithm = make_at(geometry, 64.0)
    first = algorithm.ask()[0]
    assert first.origin == "seed:mixed"
    assert algorithm.space.factors(first.individual).tolist() == [1.0, 32.5, 64.0, 64.0]
    assert yarn(geometry, 64.0).tolist() == pytest.approx([1.0, 1.9692, 64.0, 64.0], abs=1e-4)


def test_a_ramp_is_mixed_linearly_over_factors():
    space = Space(num_pairs=3, max_factor=65, grid=0.01, start_tokens=(0,))
    assert space.factors(mixed_seed(space, [0, 0.25, 1], 64)).tolist() == [1.0, 16.75, 64.0]


def test_the_closed_forms_are_not_among_its_candidates():
    asked = [c.individual for group in run(make("evolution-public"), hill) for c in group]
    assert not set(asked) & set(SEEDS.values())


def test_factors_reach_one_plus_the_scale_and_no_further():
    # 1.25 * 8 is 10, but the bound is 9: 800 steps of 0.01 above 1
    asked = run(
        make("evolution-public", num_iterations=30),
        lambda i, _: -float(np.sum(i.levels)),
    )
    last = [c.individual.levels[-1] for group in asked for c in group]
    assert max(last) == 800


def test_no_start_tokens_are_searched():
    # `hill` wants 8 of them, and the settings offer 0, 2 and 8
    asked = [c.individual for group in run(make("evolution-public"), hill) for c in group]
    assert {i.num_start_tokens for i in asked} == {0}


def test_the_mutation_probability_has_no_effect():
    runs = [run(make("evolution-public", mutation_probability=p), hill) for p in (0.0, 0.3, 1.0)]
    assert runs[0] == runs[1] == runs[2]


def test_a_mutation_of_the_seed_redraws_most_pairs_the_first_and_the_last_included():
    # The seed is flat at both ends, which takes many sweeps to become non-decreasing again.
    first, *mutations = make_at(LLAMA2, 64.0).ask()
    changed = np.array([c.individual.levels for c in mutations]) != np.array(
        first.individual.levels
    )
    assert changed.shape == (63, 64)
    assert np.median(changed.sum(axis=1)) > 0.8 * 64
    assert changed.any(axis=0).all()


def test_a_crossover_has_its_levels_from_two_of_the_parents():
    algorithm = make("evolution-public", num_iterations=8, num_crossovers=12)
    num_children = 0
    while not algorithm.finished:
        parents = [np.array(parent.individual.levels) for parent in algorithm.parents]
        candidates = algorithm.ask()
        for child in (np.array(c.individual.levels) for c in candidates if c.origin == "crossover"):
            num_children += 1
            pairs = permutations(parents, 2)
            assert any(((child == mother) | (child == father)).all() for mother, father in pairs)
        algorithm.tell(candidates, losses_under(candidates, hill))
    assert num_children > 10


def test_a_crossover_without_a_valid_change_becomes_a_mutation():
    # The second half of an iteration is crossovers, of which alike parents allow few.
    asked = run(make("evolution-public", num_iterations=20), hill)[1:]
    assert [len(group) for group in asked] == [4 + 4] * 20
    origins = [c.origin for group in asked for c in group[4:]]
    assert set(origins) == {"mutation", "crossover"}
    assert {c.origin for group in asked for c in group[:4]} == {"mutation"}


def test_every_individual_is_scored_on_all_documents():
    asked = [c for group in run(make("evolution-public"), noise(1)) for c in group]
    assert {c.documents for c in asked} == {(0, 1, 2)}


def test_a_mutation_that_is_given_up_is_still_within_bounds(monkeypatch):
    # In so small a space nothing new is left soon, and the public code would search for ever.
    monkeypatch.setattr(public, "SWEEPS", 50)
    small = Space(num_pairs=3, max_factor=1.01, grid=0.01, start_tokens=(0,))
    asked = PublicEvolution(small, Individual((0, 0, 0), 0), PUBLISHED, 5, 0).ask()
    levels = np.array([c.individual.levels for c in asked])
    assert levels.shape == (64, 3)
    assert (np.diff(levels) >= 0).all() and levels.min() >= 0 and levels.max() <= 1
