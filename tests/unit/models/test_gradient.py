"""The gradient of a document's loss by its factors, and the search that descends along it."""

import numpy as np
import pytest
import torch
from searches import SPACE, make, noise, run
from tolerances import REORDERED
from torch.nn import functional

from longrope.models.gradient import nll_gradient
from longrope.models.loading import geometry
from longrope.models.rotary import LongRopeRotary
from longrope.models.scoring import token_nlls
from longrope.rope.factors import RopeFactors
from longrope.search.algorithms.algorithm import Loss
from longrope.search.algorithms.gradient import Adam
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Text, Unit


def factors_of(model, num_start_tokens=5, attention_scale=1.1):
    rope_geometry = geometry(model, 64)
    rising = np.linspace(1.0, 3.0, rope_geometry.num_pairs)
    return RopeFactors(
        factors=tuple(rising.tolist()),
        num_start_tokens=num_start_tokens,
        attention_scale=attention_scale,
        original_length=64,
        target_length=128,
        method="longrope",
    )


TOKENS = torch.from_numpy(np.random.default_rng(0).integers(0, 97, 120))


class Differentiable(LongRopeRotary):
    """A rotary embedding whose factors and attention scale torch differentiates by itself."""

    def begin(self, factors):
        values = torch.tensor(factors.factors, dtype=torch.float64)
        self.log_factors = values.log().requires_grad_()
        self.log_scale = torch.tensor(factors.attention_scale).double().log().requires_grad_()
        self.num_start_tokens = factors.num_start_tokens

    def forward(self, x, position_ids, layer_type=None):
        positions = position_ids[..., None].double()
        early = positions < self.num_start_tokens
        plain = positions * self.inv_freq.double()
        angles = torch.where(early, plain, plain / self.log_factors.exp())
        scale = torch.where(early, 1.0, self.log_scale.exp())
        pair = [
            (turned * scale).repeat(1, 1, 2).to(x.dtype) for turned in (angles.cos(), angles.sin())
        ]
        return pair[0], pair[1]


@pytest.mark.parametrize("first", [1, 100])
def test_it_is_what_torch_finds_by_differentiating_the_whole_model(llama, first):
    factors = factors_of(llama)
    gradient = nll_gradient(llama, TOKENS, factors=factors, first=first)
    rotary = Differentiable(geometry(llama, 64))
    rotary.begin(factors)
    llama.base_model.rotary_emb = rotary
    logits = llama(TOKENS[None]).logits[0, first - 1 : -1]
    nll = functional.cross_entropy(logits, TOKENS[first:], reduction="sum")
    nll.backward()
    assert gradient.nll == pytest.approx(float(nll.detach()), rel=REORDERED)
    np.testing.assert_allclose(gradient.log_factors, rotary.log_factors.grad, rtol=2e-3, atol=1e-4)
    assert gradient.log_attention_scale == pytest.approx(rotary.log_scale.grad.item(), rel=1e-3)


def test_its_loss_is_that_of_scoring(llama):
    factors = factors_of(llama)
    gradient = nll_gradient(llama, TOKENS, factors=factors)
    nlls = token_nlls(llama, TOKENS, factors=factors, chunk_length=50)
    assert gradient.nll == pytest.approx(float(nlls.sum()), rel=REORDERED)


def test_no_parameter_of_the_model_gets_a_gradient(llama):
    nll_gradient(llama, TOKENS, factors=factors_of(llama))
    assert all(parameter.grad is None for parameter in llama.parameters())


def test_a_document_of_one_token_is_refused(llama):
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        nll_gradient(llama, TOKENS[:1], factors=factors_of(llama))


def test_a_worker_gives_the_derivatives_of_the_pairs_and_then_that_of_the_attention_scale(
    llama, tmp_path
):
    llama.save_pretrained(tmp_path)
    factors = factors_of(llama)
    worker = Scorer(tmp_path, "float32", full_attention=False, chunk_length=50).open()
    unit = Unit(factors, Text(TOKENS.numpy(), {"number": 0}, scored_from=30), gradient=True)
    score = worker.score(unit)
    expected = nll_gradient(llama, TOKENS, factors=factors, first=30)
    assert score.num_tokens == 90
    slopes = [slope / 90 for slope in (*expected.log_factors, expected.log_attention_scale)]
    assert score.mean_gradient == pytest.approx(slopes, rel=1e-4, abs=1e-6)


# The search ---------------------------------------------------------------------------------------


def test_the_first_step_of_adam_is_one_against_each_sign():
    # with both averages corrected for their start, the first mean over the first root is the sign
    step = Adam(3).direction(np.array([0.5, -2.0, 1e-3]))
    np.testing.assert_allclose(step, [-1, 1, -1], rtol=1e-4)


def test_adam_averages_gradients_by_its_two_rates():
    adam = Adam(1, first_rate=0.5, second_rate=0.75)
    adam.direction(np.array([1.0]))
    # first: (0.5 * 0.5 + 0.5 * 3) / 0.75 = 7/3; second: (0.75 * 0.25 + 0.25 * 9) / 0.4375 = 39/7
    assert adam.direction(np.array([3.0]))[0] == pytest.approx(-7 / 3 / np.sqrt(39 / 7))


def quadratic(candidates):
    """Return losses, minimal where every factor is 4, with their gradients."""
    losses = []
    for candidate in candidates:
        away = np.log(SPACE.factors(candidate.individual)) - np.log(4.0)
        gradient = (*(2 * away / len(away)).tolist(), 0.0) if candidate.gradient else None
        losses.append([Loss(float(np.mean(away**2)), gradient) for _ in candidate.documents])
    return losses


def test_it_descends_to_the_minimum_of_a_smooth_problem():
    # the ramp nearest to factors of 4 everywhere has its middle before the fastest pair
    algorithm = make("gradient", num_steps=40, step=0.5)
    starts = [candidate.individual for candidate in algorithm.ask()]
    while not algorithm.finished:
        candidates = algorithm.ask()
        algorithm.tell(candidates, quadratic(candidates))
    start = min(np.mean((np.log(SPACE.factors(each)) - np.log(4)) ** 2) for each in starts)
    assert algorithm.best.loss < start / 5


def test_only_its_steps_ask_for_gradients_one_individual_each():
    groups = run(make("gradient"), noise(0))
    asked = [[c.gradient for c in group] for group in groups]
    assert asked[0] == [False] * 6
    assert asked[1:6] == [[True]] * 5
    assert not any(gradient for group in asked[6:] for gradient in group)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(bad):
    algorithm = make("gradient")
    begun = algorithm.ask()
    best = begun[4]  # of the closed forms and ramps
    losses = [[Loss(float(each is not best))] * len(each.documents) for each in begun]
    algorithm.tell(begun, losses)
    places = []
    for _ in range(5):
        (candidate,) = algorithm.ask()
        places.append(candidate.individual)
        broken = [Loss(bad, (bad,) * (SPACE.num_pairs + 1)) for _ in candidate.documents]
        algorithm.tell([candidate], [broken])
    assert set(places) == {best.individual}
