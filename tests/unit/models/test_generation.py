"""Generation under a table: against passes over whole texts without a cache, for every architecture."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import ORIGINAL_LENGTH, build
from transformers import PreTrainedModel

import longrope
from longrope import FactorTable, RopeFactors, UserError
from longrope.models.loading import geometry
from longrope.models.rotary import install

NUM_NEW = 19
"""enough to pass two entries of the table from the first of BOUNDARY"""
BOUNDARY = (ORIGINAL_LENGTH - 1, ORIGINAL_LENGTH, ORIGINAL_LENGTH + 1)
SECOND = ORIGINAL_LENGTH + 16
PROMPT = np.random.default_rng(2).integers(0, 97, 150).tolist()
SWITCHES = pytest.mark.parametrize("switch", ["start", "recompute"])


def table_of(model: PreTrainedModel) -> FactorTable:
    """Return three entries that differ in factors, start tokens and attention scale."""
    pairs = geometry(model, ORIGINAL_LENGTH).num_pairs

    def entry(length: int, most: float, scale: float, start: int) -> RopeFactors:
        return RopeFactors(
            factors=tuple(np.geomspace(1.0, most, pairs)),
            attention_scale=scale,
            num_start_tokens=start,
            original_length=ORIGINAL_LENGTH,
            target_length=length,
            method="longrope",
        )

    return FactorTable(
        entries=(
            entry(ORIGINAL_LENGTH, 1.0, 1.0, 0),
            entry(SECOND, 4.0, 1.1, 4),
            entry(2 * ORIGINAL_LENGTH, 16.0, 1.3, 30),
        )
    )


def continued(model: PreTrainedModel, *prompts: list[int], **options: Any) -> list[list[int]]:
    options = {"max_new_tokens": NUM_NEW} | options
    return longrope.generate(model, table_of(model), prompts, **options)


def without_cache(model: Any, prompt: list[int], num_new: int, switch: str) -> list[int]:
    """Return the likeliest tokens by one pass over the whole text for each."""
    table = table_of(model)
    rotary = install(model, geometry(model, ORIGINAL_LENGTH))
    tokens = [*prompt]
    for _ in range(num_new):
        length = len(prompt) + num_new if switch == "start" else len(tokens)
        rotary.use(table.at(length))
        with torch.inference_mode():
            logits = model(torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


@SWITCHES
@pytest.mark.parametrize("length", BOUNDARY)
def test_each_token_is_that_of_one_pass_over_the_whole_text(model, length, switch):
    expected = without_cache(model, PROMPT[:length], NUM_NEW, switch)
    assert continued(model, PROMPT[:length], switch=switch) == [expected]


@SWITCHES
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_taken_up_again_at_the_boundary_goes_on_as_it_did(model, switch, temperature):
    options: dict[str, Any] = {"switch": switch, "temperature": temperature, "seed": 3}
    start = ORIGINAL_LENGTH - 5
    (new,) = continued(model, PROMPT[:start], **options)
    for end in BOUNDARY:
        done = new[: end - start]
        left = NUM_NEW - len(done)
        rest = continued(model, PROMPT[:start] + done, max_new_tokens=left, **options)
        assert rest == [new[len(done) :]], end


@pytest.mark.parametrize(
    "options",
    [
        {"switch": "start"},
        {"switch": "recompute", "prefill_chunk": 10},
        {"switch": "recompute", "temperature": 1.0, "cache": "static"},
    ],
)
def test_a_text_in_a_batch_goes_on_as_it_does_alone(model, options):
    prompts = [PROMPT[1:length] for length in (8, *BOUNDARY, SECOND + 4)]
    alone = [continued(model, prompt, **options)[0] for prompt in prompts]
    assert continued(model, *prompts, **options) == alone


@pytest.mark.parametrize(
    ("chunk", "cache"), [(10, "dynamic"), (65, "static"), (1000, "dynamic"), (None, "static")]
)
def test_neither_chunks_of_the_prompt_nor_the_cache_change_a_token(model, chunk, cache):
    options: dict[str, Any] = {"switch": "recompute", "prefill_chunk": chunk, "cache": cache}
    prompt = PROMPT[: SECOND - 3]
    assert continued(model, prompt, **options) == [
        without_cache(model, prompt, NUM_NEW, "recompute")
    ]


def test_sampled_tokens_are_as_likely_as_samples_of_the_softmax_on_average(llama):
    table, prompt = table_of(llama), PROMPT[:10]
    install(llama, geometry(llama, ORIGINAL_LENGTH)).use(table.entries[0])
    with torch.inference_mode():
        logits = llama(torch.tensor([prompt])).logits[0, -1]
    logs = (logits / 0.7).log_softmax(-1).double().numpy()
    drawn = [
        continued(llama, prompt, max_new_tokens=1, temperature=0.7, seed=seed)[0][0]
        for seed in range(100)
    ]
    mean, square = (float(np.exp(logs) @ values) for values in (logs, logs**2))
    error = np.sqrt((square - mean**2) / len(drawn))
    assert abs(logs[drawn].mean() - mean) < 2.5 * error


def test_seeds_differ_and_the_same_seed_repeats(llama):
    def sampled(seed: int) -> list[list[int]]:
        return continued(llama, PROMPT[:10], temperature=1.0, seed=seed)

    assert sampled(1) == sampled(1) != sampled(2)


@SWITCHES
def test_eos_ends_its_text_alone_and_for_good(llama, switch):
    long, short = PROMPT[: ORIGINAL_LENGTH - 2], PROMPT[:20]
    free = continued(llama, long, short, switch=switch)
    eos = free[0][1]
    llama.generation_config.eos_token_id = [eos, 96]

    def cut(tokens: list[int]) -> list[int]:
        return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens

    assert continued(llama, long, short, switch=switch) == [cut(tokens) for tokens in free]
    assert len(cut(free[0])) <= 2


def test_a_generation_config_of_the_model_changes_nothing_and_stays_as_it_is(llama):
    plain = continued(llama, PROMPT[:20])
    llama.generation_config.update(do_sample=True, repetition_penalty=5.0, num_beams=2, top_k=3)
    present = llama.generation_config
    assert continued(llama, PROMPT[:20]) == plain
    assert llama.generation_config is present


def test_the_model_is_left_as_it_was(model):
    present, config = model.base_model.rotary_emb, model.config.to_dict()
    continued(model, PROMPT[:20])
    assert model.base_model.rotary_emb is present
    assert model.config.to_dict() == config


def test_no_token_is_computed_twice_under_an_entry_nor_is_anyone_warned_of_it(model, caplog):
    widths: list[int] = []
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda _, args, __: widths.append(args[0].shape[1]))
    continued(model, PROMPT[:60], max_new_tokens=8)
    assert widths == [60] + [1] * 7
    assert caplog.records == []


@pytest.mark.parametrize(
    ("prompt", "options", "sentence"),
    [
        ([], {}, "text 0 is empty"),
        (PROMPT[:128], {}, "the prompt has 128 tokens, but the longest factors are for 128"),
        (PROMPT[:120], {}, "ask for at most 8 new tokens"),
        ([97], {}, "text 0 has token ids from 97 to 97"),
        ([1], {"temperature": -1.0}, "temperature"),
        ([1], {"max_new_tokens": 0}, "max_new_tokens"),
        ([1], {"switch": "later"}, "switch"),
        ([1], {"cache": "quantized"}, "cache"),
    ],
)
def test_what_cannot_be_continued_is_refused_in_a_sentence(llama, prompt, options, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        continued(llama, prompt, **options)
    assert "\n" not in str(caught.value)


def test_factors_of_another_model_are_refused(llama):
    factors = table_of(llama).entries[0].model_copy(update={"rope_theta": 5e5})
    with pytest.raises(UserError, match="with rope_theta 500000, but the model has 10000"):
        longrope.generate(llama, factors, [[1]], max_new_tokens=1)
    other = table_of(build("gpt_neox"))
    with pytest.raises(UserError, match="with rotary pairs 4, but the model has 8"):
        longrope.generate(llama, other, [[1]], max_new_tokens=1)


def test_a_model_in_training_mode_is_refused(llama):
    with pytest.raises(ValueError, match=r"call model.eval\(\)"):
        continued(llama.train(), [1])
