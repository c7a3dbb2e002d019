"""LongRoPE2's search: the critical pair and attention scales in the space, and all of it as settings."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from checkpoints import write_checkpoint
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from repository import ROOT
from search_spaces import SPACES, is_valid, problem_in
from searches import GEOMETRY, PROBLEM, SCALE, SEARCH, noise, run, small

from longrope.errors import UserError
from longrope.plan import build as plan
from longrope.rope.critical import critical_pairs, ntk_below
from longrope.rope.methods import METHODS, Geometry
from longrope.search.algorithms.evolution import Evolution
from longrope.search.algorithms.problem import closed_form_seeds, space_for
from longrope.search.algorithms.space import AttentionGrid, Individual, Space
from longrope.settings import loading as configuration

LLAMA3 = Geometry(num_pairs=64, rope_theta=500_000.0, original_length=8192)
PHI3 = Geometry(num_pairs=48, rope_theta=10_000.0, original_length=2048)
seeds = st.integers(0, 2**32 - 1)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=map(str, SPACES))
some_space = st.sampled_from(list(SPACES.values()))


# The critical pair --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("geometry", "setting", "pairs"),
    [
        # 64 ln(8192 / 2 pi) / ln 500000 = 34.98 and 48 ln(2048 / 2 pi) / ln 10000 = 30.16
        (LLAMA3, "theory", (35,)),
        (PHI3, "theory", (31,)),
        # 8192 tokens are 11.7 turns of pair 23 and 9.5 of pair 24; 2048 are 10.3 of 18, 8.5 of 19
        (LLAMA3, "search", tuple(range(23, 36))),
        (PHI3, "search", tuple(range(18, 32))),
        # of 32 tokens nothing sees 10 turns
        (replace(PHI3, original_length=32), "search", tuple(range(10))),
        (LLAMA3, 30, (30,)),
        (LLAMA3, None, (0,)),
    ],
)
def test_candidates_for_the_critical_pair_have_their_hand_computed_values(geometry, setting, pairs):
    assert critical_pairs(setting, geometry) == pairs


@pytest.mark.parametrize(
    ("setting", "theta"), [(64, 500_000.0), (99, 500_000.0), ("theory", 10.0), ("search", 10.0)]
)
def test_a_critical_pair_that_leaves_none_to_search_is_refused(setting, theta):
    with pytest.raises(UserError, match=rf"critical_dimension {setting} is pair \d+ .* 63, which"):
        critical_pairs(setting, replace(LLAMA3, rope_theta=theta))


def test_pairs_below_the_critical_one_follow_a_curve_that_meets_it():
    space = Space(
        num_pairs=5, max_factor=16, grid=0.01, start_tokens=(0,), min_factor=8, critical_pairs=(3,)
    )
    # level 700 is a factor of 8, whose cube root is 2
    factors = space.factors(Individual((700, 1000), 0, critical_pair=3))
    assert factors.tolist() == [1.0, 2.0, 4.0, 8.0, 11.0]


@given(factor=st.floats(1, 100), pair=st.integers(1, 40))
def test_below_the_critical_pair_the_angles_are_those_of_a_larger_base(factor, pair):
    # theta^(-i/P) / factor^(i/c) is theta'^(-i/P) with theta' = theta factor^(P/c)
    raised = PHI3.rope_theta * factor ** (48 / pair)
    places = np.arange(pair) / 48
    assert ntk_below(factor, pair) == pytest.approx((raised / PHI3.rope_theta) ** places)


def test_derived_factors_are_rounded_to_ten_decimals():
    space = replace(SPACES[3], attention=None)
    factors = space.factors(Individual((700,) * 13, 0, critical_pair=3))
    assert factors[1] == 2.0
    factors = space.factors(Individual((701,) * 13, 0, critical_pair=3))
    assert factors[1] == round(8.01 ** (1 / 3), 10)


# The space ----------------------------------------------------------------------------------------


@every_space
def test_factors_are_searched_from_the_scale_to_twice_the_scale(space):
    # levels 700 and 1500 of a grid of 0.01 are 8 and 16
    assert (space.bottom, space.top, space.restricted) == (700, 1500, True)


def test_the_lower_bound_is_the_first_step_that_is_not_below_the_scale():
    space = space_for(GEOMETRY, SEARCH.model_copy(update={"critical_dimension": 3}), 4 / 3)
    # 1.3333 is between the levels 33 and 34
    assert space.bottom == 34


@effort(max_examples=60)
@given(space=some_space, seed=seeds, probability=st.floats(0, 1))
def test_whatever_is_drawn_mutated_and_crossed_is_valid(space, seed, probability):
    generator = np.random.default_rng(seed)
    first, second = space.draw(generator), space.draw(generator)
    mutated = space.mutate(first, probability, generator)
    crossed = space.cross(mutated, second, generator)
    for individual in (first, second, mutated, crossed):
        assert is_valid(space, individual)


@given(
    space=some_space,
    first=seeds,
    second=seeds,
    seed=seeds,
)
def test_a_crossing_takes_every_coordinate_from_either_parent(space, first, second, seed):
    mother, father = (space.draw(np.random.default_rng(number)) for number in (first, second))
    father = replace(father, attention_level=17, num_start_tokens=8)
    child = space.cross(mother, father, np.random.default_rng(seed))
    assert set(child.levels) <= set(mother.levels) | set(father.levels)
    for name in ("critical_pair", "attention_level", "num_start_tokens"):
        assert getattr(child, name) in {getattr(mother, name), getattr(father, name)}


@given(space=some_space, factors=st.lists(st.floats(0.1, 50), min_size=16, max_size=16))
def test_the_nearest_individual_is_valid_and_has_the_last_critical_pair(space, factors):
    nearest = space.nearest(factors, 5)
    assert is_valid(space, nearest)
    assert nearest.critical_pair == space.critical_pairs[-1]
    assert len(nearest.levels) == space.num_pairs - nearest.critical_pair
    assert space.attention_scale(nearest) == 1.2
    assert space.nearest(space.factors(nearest).tolist(), nearest.num_start_tokens) == nearest


def test_mutation_redraws_the_critical_pair_and_the_attention_scale_as_often_as_it_says():
    space, generator = SPACES["search"], np.random.default_rng(0)
    parent = space.nearest(METHODS["linear"](GEOMETRY, SCALE).tolist())
    children = [space.mutate(parent, 0.3, generator) for _ in range(3000)]
    moved = np.mean([child.critical_pair != parent.critical_pair for child in children])
    scaled = np.mean([child.attention_level != parent.attention_level for child in children])
    # a redrawn pair is another one with a chance of 1 - 1/candidates
    assert moved == pytest.approx(0.3 * (1 - 1 / len(space.critical_pairs)), abs=0.03)
    assert scaled == pytest.approx(0.3, abs=0.03)


def test_attention_scales_lie_on_their_grid_and_seeds_have_the_nearest():
    grid = AttentionGrid(low=1.0, high=1.3, step=0.1, start=1.17)
    assert [grid.scale(level) for level in range(grid.top + 1)] == [1.0, 1.1, 1.2, 1.3]
    assert [grid.nearest(scale) for scale in (0.2, 1.04, 1.17, 9.0)] == [0, 0, 2, 3]


# The search ---------------------------------------------------------------------------------------


@every_space
def test_closed_forms_are_clipped_above_the_critical_pair_and_refitted_below(space):
    critical = space.critical_pairs[-1]
    made = closed_form_seeds(space, GEOMETRY, SCALE)
    for name, seed in made.items():
        # no closed form is above the scale
        assert space.factors(seed)[critical:].tolist() == [8.0] * (16 - critical), name
        below = [round(8 ** (pair / critical), 10) for pair in range(critical)]
        assert space.factors(seed)[:critical] == pytest.approx(below, abs=1e-10)


@every_space
@effort(max_examples=4)
@given(seed=seeds)
def test_the_evolution_asks_for_valid_and_new_individuals(space, seed):
    groups = run(Evolution(problem_in(space), small("evolution"), 3, seed), noise(seed))
    asked = [candidate.individual for group in groups for candidate in group]
    # the first generation, and 5 iterations
    assert len(asked) == len(set(asked)) == 12 + 5 * 8
    assert all(is_valid(space, individual) for individual in asked)
    # the closed forms are one individual here, so 11 of 12 are drawn
    assert [candidate.origin for candidate in groups[0]] == ["seed:linear", *11 * ["random"]]


def test_a_second_search_multiplies_derived_and_searched_factors_and_takes_its_attention_scale():
    tuned = tuple(np.linspace(1, 3, 16).tolist())
    problem = replace(PROBLEM, space=SPACES[3], base=tuned)
    # level 700 is 8, with 2 and 4 below it; attention level 1234 of 1e-4 above 1
    composed = problem.compose(Individual((700,) * 13, 2, critical_pair=3, attention_level=1234))
    searched = [1.0, 2.0, 4.0, *13 * [8.0]]
    assert composed.factors == pytest.approx([a * b for a, b in zip(searched, tuned, strict=True)])
    assert (composed.num_start_tokens, composed.attention_scale) == (2, 1.1234)


# Settings -----------------------------------------------------------------------------------------

SMALL = """
experiment: small
model: {name: tiny, path: model, original_length: 256}
corpora:
  own: {source: {kind: local, files: {train: [own.txt], validation: [own.txt]}}}
search: {documents: {corpus: own, split: validation}}
extension:
  - target_length: 1024
    finetune: {num_steps: 10, documents: {corpus: own, split: train}}
  - target_length: 2048
readjust: {lengths: [256]}
"""


@pytest.mark.parametrize(
    ("name", "window", "theory"), [("llama3-8b", 8192, LLAMA3), ("phi3-mini", 2048, PHI3)]
)
def test_the_shipped_searches_are_those_of_the_paper(name, window, theory):
    config = configuration.load(ROOT / f"config/{name}-longrope2.yaml")
    search = config.search
    # arXiv:2502.20082: P = 64, T = 40, p = 0.3, 10 books with needles, factors up to twice the scale
    evolution = search.algorithm
    budget = (evolution.population_size, evolution.num_iterations, evolution.mutation_probability)
    assert (search.objective, search.num_documents, budget) == ("needle", 10, (64, 40, 0.3))
    assert (search.critical_dimension, search.max_factor_ratio) == ("search", 2.0)
    assert config.model.original_length == window == theory.original_length
    assert [step.target_length for step in config.extension] == [131_072]


@pytest.fixture
def nodes(tmp_path):
    """Return a function that gives the nodes of the small experiment under other search settings."""
    write_checkpoint(tmp_path / "model", "llama")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "own.txt").write_text("A text of one's own.")

    def built(**search):
        raw = yaml.safe_load(SMALL)
        raw["search"] |= search
        return plan.build(configuration.parse(raw, source="small.yaml"), tmp_path).nodes

    return built


SEARCHES = ("search/tiny-1024", "search/tiny-ft1024-2048", "readjust/tiny-ft1024")


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        (
            {"algorithm": "cma", "critical_dimension": "search"},
            "search: algorithm cma cannot search under critical_dimension search; use evolution.",
        ),
        (
            {"algorithm": "evolution-public", "critical_dimension": 0},
            "search: algorithm evolution-public cannot search under critical_dimension 0; use "
            "evolution.",
        ),
        (
            {"algorithm": "evolution-public", "attention_scales": {"low": 1.0, "high": 1.2}},
            "search: algorithm evolution-public cannot search under attention_scales; use "
            "evolution.",
        ),
        (
            {"attention_scales": {"low": 1.2, "high": 1.1}},
            "search.attention_scales: high must be at least low + step (1.2001), got 1.1.",
        ),
        (
            {"critical_dimension": "theroy"},
            "search.critical_dimension should be 'theory' or 'search', or a whole number, got 'theroy' "
            "(did you mean theory?).",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_sentence(nodes, search, sentence):
    with pytest.raises(UserError) as caught:
        nodes(**search)
    assert str(caught.value) == f"small.yaml: {sentence}"


def test_defaults_leave_no_trace_in_the_settings_of_a_search(nodes):
    planned = nodes()
    for name in SEARCHES:
        search = planned[name].settings.identity()["search"]
        assert not {"objective", "critical_dimension", "attention_scales"} & search.keys()
        assert search["max_factor_ratio"] == 1.25
        assert "tokenizer" not in {*planned[name].inputs, *planned[name].raw}


def test_a_critical_dimension_raises_the_upper_bound_unless_one_is_given(nodes):
    raised = nodes(critical_dimension="theory")
    given = nodes(critical_dimension=0, max_factor_ratio=1.5)
    for name in SEARCHES:
        assert raised[name].settings.search.max_factor_ratio == 2.0
        search = given[name].settings.search
        assert (search.critical_dimension, search.max_factor_ratio) == (0, 1.5)


def test_needles_are_planted_with_the_tokenizer_of_the_base_model(nodes):
    planned = nodes(objective="needle")
    for name in SEARCHES:
        assert planned[name].settings.search.objective == "needle"
        files = planned[name].raw["tokenizer"].files
        assert files == planned["search/tiny-1024"].raw["model"].files
