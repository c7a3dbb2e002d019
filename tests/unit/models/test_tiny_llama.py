"""The embedded base model is what its README says."""

import json

import numpy as np
import pytest
import torch
from repository import HELPERS, ROOT

from longrope.data.prompts import build_prompt, classic_filler, draw_key
from longrope.data.tokenizers import load_encoder
from longrope.models.loading import geometry, load_model
from longrope.models.scoring import greedy_matches
from longrope.rope.methods import closed_form

FOLDER = ROOT / "resources" / "tiny-llama"
WINDOW = 256


@pytest.fixture(scope="module")
def model():
    return load_model(FOLDER, dtype="float32")


@pytest.fixture(scope="module")
def tokenizer():
    return load_encoder(FOLDER)


def answers(model, tokenizer, filler, length, depth, key):
    """Return whether the unscaled model writes the whole key of one prompt."""
    prompt = build_prompt(tokenizer, filler, length=length, depth=depth, key=key)
    matches = greedy_matches(
        model,
        torch.from_numpy(prompt.tokens),
        factors=closed_form("none", geometry(model, WINDOW), WINDOW),
        chunk_length=length,
        num_last=prompt.num_answer_tokens,
    )
    return bool(matches.all())


def test_it_is_a_small_llama_with_32_pairs_and_a_window_of_256(model):
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings == WINDOW
    assert geometry(model, WINDOW).num_pairs == 32
    assert (FOLDER / "model.safetensors").stat().st_size <= 4_000_000


def test_as_many_pairs_turn_once_inside_its_window_as_in_llama2(model):
    # Llama-2: base 10000, window 4096, 64 pairs of which pair 45 is the last to turn fully
    llama2 = 10_000.0 ** (np.arange(64) / 64) * 2 * np.pi <= 4096
    tiny = geometry(model, WINDOW).periods <= WINDOW
    assert tiny.mean() == pytest.approx(llama2.mean(), abs=1 / 32)


def test_every_digit_is_a_token_and_text_survives_the_tokenizer(tokenizer):
    assert len(tokenizer.encode("48213").ids) == 5
    text = "Chapter 12.\n\n  She said: \u201cno\u201d, caf\u00e9 \u4e2d"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize("filler", ["classic", "prose"])
def test_it_answers_95_of_100_passkeys_inside_its_window(model, tokenizer, filler):
    # technical prose of our own, unlike the books it was trained on; a copy that never changes
    prose = (HELPERS / "prose.txt").read_text()
    generator = np.random.default_rng(7)
    right = 0
    for _ in range(100):
        start = int(generator.integers(0, len(prose) - 8 * WINDOW))
        irrelevant = classic_filler(tokenizer, WINDOW) if filler == "classic" else prose[start:]
        depth = float(generator.random())
        right += answers(model, tokenizer, irrelevant, WINDOW, depth, draw_key(generator))
    assert right >= 95


def test_unscaled_it_answers_no_passkey_at_eight_times_its_window(model, tokenizer):
    generator = np.random.default_rng(7)
    length = 8 * WINDOW
    for depth in (0.0, 0.25, 0.5):
        filler = classic_filler(tokenizer, length)
        assert not answers(model, tokenizer, filler, length, depth, draw_key(generator))


def test_its_log_names_its_inputs_and_ends_with_its_figures():
    lines = [json.loads(line) for line in (FOLDER / "train-log.jsonl").read_text().splitlines()]
    catalogue = (ROOT / "resources" / "corpora.yaml").read_text()
    assert all(value in catalogue for value in lines[0]["inputs"].values())
    assert lines[-1]["recall_256_classic_of_100"] >= 95
    assert lines[-1]["recall_256_book_of_100"] >= 95
    readme = (FOLDER / "README.md").read_text()
    assert f"{lines[-1]['ppl_256']:.1f}" in readme and f"{lines[-1]['ppl_2048']:.1f}" in readme
