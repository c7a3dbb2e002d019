"""The search space, what all algorithms share, the evolution and the driver around them."""

import json
import math
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from searches import (
    GEOMETRY,
    HIGH,
    LOW,
    PROBLEM,
    SCALE,
    SEEDS,
    SMALL,
    SPACE,
    FakeObjective,
    Scripted,
    away_from_four,
    hill,
    losses,
    losses_under,
    make,
    noise,
    run,
    small,
)
from tolerances import REORDERED
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.rope.methods import closed_form
from longrope.search.algorithms.algorithm import Best, Candidate
from longrope.search.algorithms.evolution import Evolution
from longrope.search.algorithms.space import Individual, Space
from longrope.search.driver import search
from longrope.search.objective import Objective, perplexity
from longrope.search.workers import model as model_worker
from longrope.search.workers.pools import InProcess
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Text
from longrope.settings.algorithms import Algorithm
from longrope.stages.readjust import with_best_attention_scale
from longrope.store.score_memory import ScoreMemory

ALL = (0, 1, 2)
"""the documents of the small problem"""
TOPS = {"evolution": 900, "evolution-public": 800, "cma": 900, "gradient": 900, "auto": 900}
"""highest levels on a grid of 0.01: 1.25 * 8 = 9 + 1, and 1 + 8 in the authors' code"""
levels = st.lists(st.integers(0, SPACE.top), min_size=16, max_size=16).map(sorted).map(tuple)
individuals = st.builds(Individual, levels, st.sampled_from(SPACE.start_tokens))
seeds = st.integers(0, 2**32 - 1)


def is_valid(individual):
    rising = all(a <= b for a, b in zip(individual.levels, individual.levels[1:], strict=False))
    inside = individual.levels[0] >= 0 and individual.levels[-1] <= SPACE.top
    return rising and inside and individual.num_start_tokens in SPACE.start_tokens


def test_the_upper_bound_is_one_and_a_quarter_of_the_scale():
    # 1.25 * 8 = 10, that is 900 steps of 0.01 above 1
    assert SPACE.top == 900
    assert SPACE.factors(Individual((0,) * 15 + (900,), 0))[-1] == 10.0


def test_factors_lie_on_the_grid_to_the_last_digit():
    factors = SPACE.factors(Individual(tuple(range(16)), 0))
    assert factors.tolist() == [float(f"{1 + index / 100:.2f}") for index in range(16)]


@given(individuals, seeds, st.floats(0, 1))
def test_every_mutation_is_valid(parent, seed, probability):
    assert is_valid(SPACE.mutate(parent, probability, np.random.default_rng(seed)))


@given(individuals, individuals, seeds)
def test_every_crossover_is_valid(first, second, seed):
    child = SPACE.cross(first, second, np.random.default_rng(seed))
    assert is_valid(child)
    assert set(child.levels) <= set(first.levels) | set(second.levels)


def test_the_mutation_probability_is_the_fraction_of_pairs_redrawn():
    # Far-apart levels make a redrawn pair differ almost surely.
    parent = Individual(tuple(range(0, 900, 57))[:16], 0)
    generator = np.random.default_rng(0)
    changed = [
        np.mean(np.array(SPACE.mutate(parent, 0.3, generator).levels) != np.array(parent.levels))
        for _ in range(2000)
    ]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.02)


@effort(max_examples=20)
@given(seeds, st.floats(0, 1))
def test_any_mutation_probability_is_the_fraction_of_coordinates_redrawn(seed, probability):
    parent = Individual(tuple(range(0, 900, 57))[:16], 2)
    generator = np.random.default_rng(seed)
    children = [SPACE.mutate(parent, probability, generator) for _ in range(400)]
    changed = np.not_equal([child.levels for child in children], parent.levels)
    # five deviations of 400 * 16 draws, and one in a hundred redrawn as it was
    deviation = math.sqrt(probability * (1 - probability) / changed.size)
    assert abs(changed.mean() - probability) <= 5 * deviation + 0.015
    # one of three choices of start tokens is the parent's
    expected = probability * 2 / 3
    others = np.mean([child.num_start_tokens != 2 for child in children])
    assert abs(others - expected) <= 5 * math.sqrt(expected * (1 - expected) / 400) + 0.001


def test_a_probability_of_zero_changes_nothing_and_of_one_redraws_all():
    parent = Individual(tuple(range(0, 900, 57))[:16], 8)
    generator = np.random.default_rng(0)
    assert SPACE.mutate(parent, 0.0, generator) == parent
    assert not set(SPACE.mutate(parent, 1.0, generator).levels) & set(parent.levels[3:])


@given(st.lists(st.floats(0.1, 50), min_size=16, max_size=16))
def test_the_nearest_individual_is_valid(factors):
    assert is_valid(SPACE.nearest(factors, 5))


# Every algorithm ----------------------------------------------------------------------------------

every_algorithm = pytest.mark.parametrize("name", SMALL)


def test_every_algorithm_of_the_settings_is_tested_here():
    members = get_args(get_args(Algorithm)[0])
    assert {member.model_fields["name"].default for member in members} == SMALL.keys()
    assert TOPS.keys() == SMALL.keys()


@every_algorithm
@effort(max_examples=8)
@given(seed=seeds)
def test_every_candidate_is_valid_and_asks_for_documents_that_exist(name, seed):
    asked = [c for group in run(make(name, seed=seed), noise(seed)) for c in group]
    assert all(is_valid(c.individual) and c.individual.levels[-1] <= TOPS[name] for c in asked)
    for candidate in asked:
        assert candidate.documents == tuple(sorted(set(candidate.documents)))
        assert candidate.documents and set(candidate.documents) <= set(ALL)


@every_algorithm
def test_the_same_seed_asks_for_the_same_and_another_for_something_else(name):
    first, same, other = (run(make(name, seed=seed), hill) for seed in (3, 3, 4))
    assert first == same
    assert [c.individual for group in first for c in group] != [
        c.individual for group in other for c in group
    ]


@pytest.mark.parametrize(
    ("name", "tells"),
    # a first generation and 5 iterations; closed forms, generations, start tokens and a selection
    [
        ("evolution", 1 + 5),
        ("evolution-public", 1 + 5),
        ("cma", 1 + 4 + 1 + 1),
        ("gradient", 1 + 5 + 1 + 1),
        ("auto", 1 + 3 + 2 + 1 + 1),
    ],
)
def test_a_search_ends_after_as_many_tells_as_its_settings_say(name, tells):
    algorithm = make(name)
    assert len(run(algorithm, hill)) == tells == algorithm.iteration


@every_algorithm
@effort(max_examples=8)
@given(seed=seeds)
def test_the_best_had_the_lowest_loss_of_all_that_every_document_scored(name, seed):
    loss = noise(seed)
    algorithm = make(name)
    asked = [c.individual for group in run(algorithm, loss) for c in group if c.documents == ALL]
    means = {i: np.mean([loss(i, document) for document in ALL]) for i in asked}
    assert algorithm.best.individual == min(means, key=means.__getitem__)
    assert algorithm.best.loss == pytest.approx(min(means.values()))


@every_algorithm
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_individual_with_a_loss_that_is_not_finite_never_wins(name, bad):
    def fails(individual):
        return individual.levels[7] % 2 == 0

    def loss(individual, document):
        # those that fail would be best otherwise
        return bad if fails(individual) and document == 1 else 10.0 + fails(individual) * -9

    algorithm = make(name)
    asked = [c.individual for group in run(algorithm, loss) for c in group]
    assert any(map(fails, asked)), "the test needs failures"
    best = algorithm.best
    assert best.loss == 10.0 and not fails(best.individual)


@every_algorithm
def test_where_nothing_is_finite_the_best_loss_is_infinite(name):
    algorithm = make(name)
    run(algorithm, lambda individual, document: math.nan)
    assert algorithm.best.loss == math.inf


# The evolution ------------------------------------------------------------------------------------


def frequencies(rope_type, **options):
    """Return the rotary frequencies that transformers gives a model of the small problem."""
    config = LlamaConfig(
        hidden_size=2 * GEOMETRY.num_pairs,
        num_attention_heads=1,
        max_position_embeddings=GEOMETRY.original_length,
        rope_parameters={"rope_type": rope_type, "rope_theta": GEOMETRY.rope_theta, **options},
    )
    inverse, _ = ROPE_INIT_FUNCTIONS[rope_type](config, None)
    return inverse.double().numpy()


def test_seeds_have_the_frequencies_of_transformers_up_to_the_grid():
    exponents = np.arange(GEOMETRY.num_pairs) / GEOMETRY.num_pairs
    plain = GEOMETRY.rope_theta**-exponents
    # 16 pairs are 32 dimensions; NTK-aware scaling raises the base by scale^(d / (d - 2))
    theirs = {
        "linear": frequencies("linear", factor=SCALE),
        "ntk": (GEOMETRY.rope_theta * SCALE ** (32 / 30)) ** -exponents,
        "yarn": frequencies(
            "yarn", factor=SCALE, original_max_position_embeddings=GEOMETRY.original_length
        ),
    }
    assert SEEDS.keys() == theirs.keys()
    for name, seed in SEEDS.items():
        assert np.abs(SPACE.factors(seed) - plain / theirs[name]).max() <= 0.005 + 1e-5, name
        assert seed.num_start_tokens == 0


def test_no_individual_is_asked_for_twice_and_all_on_every_document():
    asked = [c for group in run(make("evolution"), hill) for c in group]
    assert len(asked) == len({c.individual for c in asked}) == 12 + 5 * 8
    assert {c.documents for c in asked} == {ALL}


@effort(max_examples=25)
@given(seeds, seeds, st.floats(0.05, 1), st.floats(0, 0.5))
def test_whatever_is_told_every_individual_is_new_on_the_grid_within_bounds_and_rises(
    seed, landscape, probability, failing
):
    def loss(individual, document):
        value = noise(landscape)(individual, document)
        return value if value >= failing else math.nan

    asked = run(make("evolution", seed=seed, mutation_probability=probability), loss)
    individuals = [c.individual for group in asked for c in group]
    assert len(individuals) == len(set(individuals)) == 12 + 5 * 8
    factors = np.array([SPACE.factors(individual) for individual in individuals])
    assert factors.tolist() == [[float(f"{factor:.2f}") for factor in row] for row in factors]
    assert factors.min() >= 1 and factors.max() <= 1.25 * SCALE
    assert (np.diff(factors) >= 0).all()
    starts = {individual.num_start_tokens for individual in individuals}
    assert starts <= {0, 2, 8}


def test_the_first_generation_holds_the_three_seeds_and_their_mutations():
    first = make("evolution").ask()
    assert [c.origin for c in first[:3]] == ["seed:linear", "seed:ntk", "seed:yarn"]
    assert [c.individual for c in first[:3]] == list(SEEDS.values())
    assert {c.origin for c in first[3:]} == {"mutation"} and len(first) == 12


def test_later_generations_hold_mutations_and_crossovers():
    later = run(make("evolution"), hill)[1:]
    assert [[c.origin for c in group] for group in later] == 5 * [
        4 * ["mutation"] + 4 * ["crossover"]
    ]


def test_the_evolution_gets_better_than_its_seeds():
    algorithm = make("evolution", num_iterations=40)
    run(algorithm, hill)
    assert algorithm.best.loss < 0.6 * min(hill(seed, 1) for seed in SEEDS.values())


def test_the_mean_over_documents_decides():
    algorithm = make("evolution")
    candidates = algorithm.ask()
    # means 5, 4 and 6; the first has the best document, and the third the best worst one
    rest = [[9.0, 9.0, 9.0]] * (len(candidates) - 3)
    first = [[0.0, 5.0, 10.0], [1.0, 2.0, 9.0], [6.0, 6.0, 6.0]]
    algorithm.tell(candidates, losses(first + rest))
    assert algorithm.best == Best(candidates[1].individual, 4.0)


@pytest.mark.parametrize("name", ["evolution", "evolution-public"])
def test_equal_losses_rank_by_order_of_asking(name):
    algorithm = make(name)
    candidates = algorithm.ask()
    algorithm.tell(candidates, losses([[1.0] * 3] * len(candidates)))
    assert algorithm.best.individual == candidates[0].individual


@every_algorithm
def test_a_tell_with_too_few_losses_is_refused(name):
    algorithm = make(name)
    candidates = algorithm.ask()
    with pytest.raises(ValueError, match="shorter"):
        algorithm.tell(candidates, losses_under(candidates, hill)[1:])


def test_an_exhausted_space_yields_fewer_individuals_instead_of_repeating():
    narrow = Space(num_pairs=2, max_factor=1.01, grid=0.01, start_tokens=(0,))
    problem = replace(PROBLEM, space=narrow, seeds={"one": Individual((0, 0), 0)})
    algorithm = Evolution(problem, small("evolution"), 3, 0)
    # levels (0,0), (0,1) and (1,1) are all there is
    assert len(algorithm.ask()) == 3


# The objective ------------------------------------------------------------------------------------


def texts():
    """Two texts of 100 random tokens."""
    generator = np.random.default_rng(0)
    return [Text(generator.integers(0, 97, 100), {"document": index}) for index in range(2)]


def objective_of(model, folder):
    pool = InProcess(Scorer(folder, "float32", full_attention=False, chunk_length=4096).open())
    assert isinstance(pool.worker, model_worker.ModelWorker)
    pool.worker.model = model
    return Objective(pool, ScoreMemory(folder, {}), texts())


def losses_of(objective, factors, documents):
    return [
        score.loss for score in objective.scores([objective.unit(factors, d) for d in documents])
    ]


def test_losses_are_those_of_transformers_own_forward_pass_by_document(llama, tmp_path):
    shape = geometry(llama, 64)
    factors = closed_form("yarn", shape, 128)
    objective = objective_of(llama, tmp_path)
    losses = losses_of(objective, factors, [0, 1])
    mean = objective.perplexity(factors)
    install(llama, shape).use(factors)
    theirs = []
    for text in texts():
        tokens = torch.from_numpy(text.tokens)[None]
        with torch.no_grad():
            theirs.append(float(llama(tokens, labels=tokens).loss))
    assert losses == pytest.approx(theirs, rel=REORDERED)
    assert mean == pytest.approx(math.exp(np.mean(theirs)), rel=REORDERED)
    assert [objective.tokens(document) for document in range(2)] == [100, 100]


@pytest.mark.parametrize("nlls", [[math.nan, 1.0], [math.inf, 1.0]])
def test_a_loss_that_is_not_finite_is_infinite_and_not_computed_again(
    nlls, llama, tmp_path, monkeypatch
):
    factors = closed_form("none", geometry(llama, 64), 64)
    monkeypatch.setattr(model_worker, "token_nlls", lambda *_, **__: np.array(nlls))
    first = objective_of(llama, tmp_path)
    assert losses_of(first, factors, [0]) == [math.inf]
    assert first.perplexity(factors) == math.inf

    def refuse(*arguments, **named):
        raise AssertionError("computed again")

    monkeypatch.setattr(model_worker, "token_nlls", refuse)
    assert losses_of(objective_of(llama, tmp_path), factors, [1]) == [math.inf]


def test_a_loss_whose_exponential_is_no_number_is_an_infinite_perplexity():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(1e6) == perplexity(math.inf) == perplexity(math.nan) == math.inf


# The driver ---------------------------------------------------------------------------------------


def lines_of(history):
    return [json.loads(line) for line in history.read_text().splitlines()]


@every_algorithm
def test_the_driver_returns_the_best_of_its_history(name, tmp_path):
    history = tmp_path / "h.jsonl"
    best = search(PROBLEM, make(name), FakeObjective(away_from_four), history, {"model": "m"})
    lines = lines_of(history)
    everywhere = [line for line in lines if line["documents"] == list(ALL)]
    winner = min(everywhere, key=lambda line: line["perplexity"])
    assert list(best.factors) == winner["factors"]
    assert best.num_start_tokens == winner["num_start_tokens"]
    facts = best.provenance
    assert facts["perplexity"] == pytest.approx(winner["perplexity"], rel=1e-12)
    assert facts["model"] == "m"
    distinct = {(*line["factors"], line["num_start_tokens"]) for line in lines}
    assert (facts["num_candidates"], facts["num_failed_candidates"]) == (len(distinct), 0)
    # the best without start tokens counts as well, on three documents at most
    assert 0 <= facts["scored_tokens"] - lines[-1]["scored_tokens"] <= 3 * 100
    assert [line["candidate"] for line in lines] == list(range(1, len(lines) + 1))
    assert (best.original_length, best.target_length, best.attention_scale) == (256, 2048, 1.2)


def test_tokens_of_an_individual_scored_again_on_a_document_count_once(tmp_path):
    script = Scripted(
        [Candidate(LOW, "a", (0,))],
        [Candidate(LOW, "b", (0, 1)), Candidate(HIGH, "c", (1,))],
        [Candidate(LOW, "d", (1, 2))],
    )
    objective = FakeObjective(away_from_four, lengths=(1, 10, 100))
    history = tmp_path / "h.jsonl"
    best = search(PROBLEM, script, objective, history, {})
    # one on 0; again on 0, and on 1; other on 1; one again on 1, and on 2
    assert [line["scored_tokens"] for line in lines_of(history)] == [1, 11, 21, 121]
    # the best has no start tokens, so that without them it is known on all three
    assert best.provenance["scored_tokens"] == 121
    again = [0, 1, 2]
    assert objective.scored_documents == [0, 0, 1, 1, 1, 2, *again], (
        "the score memory is what answers again"
    )


def test_the_best_without_start_tokens_counts_and_is_no_candidate(tmp_path):
    script = Scripted([Candidate(HIGH, "a", (0, 1))])
    objective = FakeObjective(away_from_four, lengths=(1, 10, 100))
    best = search(PROBLEM, script, objective, tmp_path / "h.jsonl", {})
    (line,) = lines_of(tmp_path / "h.jsonl")
    # 8 start tokens on 0 and 1, then none on all three
    assert (line["scored_tokens"], best.provenance["scored_tokens"]) == (11, 11 + 111)
    assert best.provenance["num_candidates"] == 1
    assert objective.scored_documents == [0, 1, 0, 1, 2]


def test_a_line_of_the_history_says_what_was_scored_on_which_documents(tmp_path):
    script = Scripted([Candidate(LOW, "a", (2,))], [Candidate(HIGH, "b", (0, 2))])
    search(PROBLEM, script, FakeObjective(away_from_four), tmp_path / "h.jsonl", {})
    # at 4 with 8 start tokens, 0 and 0.02 are left; at 1 with none 3.12 are
    first, second = lines_of(tmp_path / "h.jsonl")
    assert first == {
        "iteration": 0,
        "candidate": 1,
        "origin": "a",
        "factors": [1.0] * 16,
        "num_start_tokens": 0,
        "documents": [2],
        "perplexity": pytest.approx(math.exp(3.12)),
        "scored_tokens": 100,
    }
    assert (second["iteration"], second["documents"]) == (1, [0, 2])
    assert second["perplexity"] == pytest.approx(math.exp(0.01))
    values = [[[loss.value for loss in row] for row in rows] for rows in script.answers]
    assert values == [[[pytest.approx(3.12)]], [[pytest.approx(0), pytest.approx(0.02)]]]


def test_the_worth_of_start_tokens_is_what_is_lost_without_them(tmp_path):
    script = Scripted([Candidate(HIGH, "a", ALL)])
    best = search(PROBLEM, script, FakeObjective(away_from_four), tmp_path / "h.jsonl", {})
    # without them 0.1 more, on documents that differ by 0.01
    lost = best.provenance["perplexity_without_start_tokens"]
    assert lost == pytest.approx(math.exp(0.1 + 0.01))
    assert best.num_start_tokens == 8


def test_a_failed_candidate_is_counted_and_logged_and_has_no_perplexity_in_the_history(
    tmp_path, caplog
):
    script = Scripted([Candidate(LOW, "a", ALL), Candidate(HIGH, "b", ALL)])

    def loss(factors, document):
        return math.nan if factors.num_start_tokens and document else 1.0

    best = search(PROBLEM, script, FakeObjective(loss), tmp_path / "h.jsonl", {})
    (record,) = caplog.records
    assert record.getMessage().startswith("candidate 2 ranks last: its loss on ")
    assert ", 1, False) is nan" in record.getMessage(), "on document 1"
    finite, failed = (line["perplexity"] for line in lines_of(tmp_path / "h.jsonl"))
    assert finite == pytest.approx(math.e) and failed is None
    assert best.provenance["num_failed_candidates"] == 1


@every_algorithm
def test_a_search_without_one_finite_loss_is_refused(name, tmp_path):
    objective = FakeObjective(lambda factors, document: math.inf)
    with pytest.raises(ValueError, match=r"none of \d+ candidates has a finite perplexity"):
        search(PROBLEM, make(name), objective, tmp_path / "h.jsonl", {})


def test_a_second_search_multiplies_the_factors_of_the_first():
    tuned = tuple(np.linspace(1, 3, 16).tolist())
    composed = replace(PROBLEM, base=tuned).compose(Individual((100,) * 16, 2))
    # level 100 on the grid of 0.01 is a factor of 2
    assert composed.factors == pytest.approx([2 * factor for factor in tuned])
    assert composed.num_start_tokens == 2


class ScaleObjective:
    """Perplexity that is best at an attention scale of 1.1."""

    def perplexities(self, candidates):
        return [10 + abs(factors.attention_scale - 1.1) for factors in candidates]


@pytest.mark.parametrize(("num_scales", "best"), [(1, 1.2), (3, 1.1), (5, 1.1)])
def test_readjustment_takes_the_best_of_evenly_spread_attention_scales(num_scales, best):
    # one keeps the 1.2 of the tuning; three are 1.2, 1.1 and 1
    factors = PROBLEM.compose(Individual((0,) * 16, 0))
    chosen = with_best_attention_scale(factors, ScaleObjective(), num_scales)
    assert chosen.attention_scale == pytest.approx(best)
    assert chosen.factors == factors.factors
    assert chosen.provenance["num_attention_scales"] == num_scales
