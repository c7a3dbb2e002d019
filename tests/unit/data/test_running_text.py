"""One tokenizer for everything, and prompts in the tokens of running text, under tokenizers of every kind."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from repository import HELPERS, ROOT
from tokenizer_kinds import KINDS, mistral
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from longrope.data import prompts
from longrope.data.prompts import build_prompt, classic_filler, filler_of
from longrope.data.token_store import TokenStore
from longrope.data.tokenizers import load_encoder
from longrope.errors import UserError
from longrope.models.loading import geometry, load_model, load_tokenizer
from longrope.models.scoring import greedy_matches
from longrope.rope.methods import closed_form
from longrope.runtime import Input, Runtime
from longrope.settings.nodes import TokenizeNode
from longrope.stages import tokenize

MADE = {name: make() for name, make in KINDS.items()}
CHOSEN = [*MADE, "mistral"]
TEXTS = st.lists(
    st.sampled_from(
        ["The", " key", "  ", "\n", "<s>", "</s>", "12345", ".", "\u00e9", "\U0001f642"]
    )
    | st.text(max_size=6)
).map("".join)


@pytest.fixture(scope="session")
def real():
    cache = ROOT / "resources" / "packages"
    cache.mkdir(parents=True, exist_ok=True)
    try:
        return mistral(cache)
    except UserError as error:
        pytest.skip(f"the vocabulary of Mistral v0.1 is not to be had: {error}")


@pytest.fixture(params=CHOSEN)
def tokenizer(request):
    if request.param == "mistral":
        return request.getfixturevalue("real")
    return MADE[request.param]


@pytest.fixture
def folder(tokenizer, tmp_path):
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def test_lm_eval_and_everything_else_read_a_text_as_the_same_ids(folder):
    ours, theirs = load_encoder(folder), load_tokenizer(folder)

    @given(TEXTS)
    @settings(max_examples=60, deadline=None)
    def compare(text):
        assert theirs.encode(text, add_special_tokens=False) == ids(ours, text)
        assert theirs.encode(text) == ours.encode(text).ids
        assert theirs([text, " a"], add_special_tokens=False)["input_ids"][0] == ids(ours, text)

    compare()
    assert (theirs.bos_token_id, theirs.eos_token_id) == (1, 2)


def test_the_text_of_a_special_token_is_text(folder):
    for text in ("<s>", "a <s> b</s>", "<unk>"):
        encoded = ids(load_encoder(folder), text)
        assert not {1, 2} & set(encoded) and len(encoded) > 1
        assert load_tokenizer(folder).encode(text, add_special_tokens=False) == encoded


@pytest.mark.parametrize("special_tokens", ["text", "token"])
def test_a_corpus_says_whether_special_tokens_in_its_texts_are_text(
    folder, tmp_path, special_tokens
):
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    text = "The key.</s><s>The key </s> 12345."
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "config.json").write_text('{"vocab_size": 32000}')
    inputs = {
        "tokenizer": Input(folder, "m"),
        "documents": Input(tmp_path, "d", files=("a.txt",)),
    }
    out = tmp_path / "out"
    out.mkdir()
    tokenize.run(TokenizeNode(special_tokens=special_tokens), inputs, out, Runtime(out, out))
    tokens = TokenStore(out).document(0).tolist()
    assert tokens == theirs.encode(
        text, add_special_tokens=False, split_special_tokens=special_tokens == "text"
    )
    specials = [token for token in tokens if token in (1, 2)]
    assert specials == ([2, 1, 2] if special_tokens == "token" else [])


@pytest.mark.parametrize("text", ["classic", "of a document"])
def test_an_answer_has_the_tokens_that_running_text_has(tokenizer, text):
    prose = (HELPERS / "prose.txt").read_text()
    for key, length in ((48213, 700), (10000, 933), (99999, 1200)):
        filler = classic_filler(tokenizer, length)
        if text != "classic":
            filler = filler_of(tokenizer, np.array(ids(tokenizer, prose)[37 : 37 + length]))
        made = build_prompt(tokenizer, filler, length=length, depth=0.4, key=key, begin=[1])
        assert len(made.tokens) == length and made.tokens[0] == 1
        before = ids(tokenizer, f"A line.\n{prompts.QUESTION}")
        running = ids(tokenizer, f"A line.\n{prompts.QUESTION} {key}")
        assert running[: len(before)] == before
        assert made.tokens[-made.num_answer_tokens :].tolist() == running[len(before) :]


def test_the_tokens_of_a_prompt_are_those_of_one_text_but_for_a_few_of_filler(
    tokenizer, monkeypatch
):
    drafts = []
    real_draft = prompts._draft

    def watched(*arguments):
        drafts.append(real_draft(*arguments))
        return drafts[-1]

    monkeypatch.setattr(prompts, "_draft", watched)
    filler = (
        "Gr\u00f6\u00dfe \U0001f642\U0001f680 na\u00efve 1813, \u65e5\u672c\u8a9e\u3002 " * 9 + "\n"
    ) * 12

    @given(st.integers(1000, 1400), st.floats(0, 1), st.integers(10_000, 99_999))
    @settings(max_examples=25, deadline=None)
    def check(length, depth, key):
        drafts.clear()
        made = build_prompt(tokenizer, filler, length=length, depth=depth, key=key).tokens.tolist()
        assert len(made) == length
        whole = [ids(tokenizer, draft.text) for draft in drafts]
        assert any(
            made == text[:at] + text[at + len(text) - length :]
            for text in whole
            if 0 <= len(text) - length <= 8
            for at in range(length + 1)
        )

    check()


def test_mistral_answers_with_one_space_and_five_digits(real):
    made = build_prompt(real, classic_filler(real, 400), length=400, depth=0.5, key=48213)
    answer = [real.id_to_token(token) for token in made.tokens[-made.num_answer_tokens :].tolist()]
    assert answer == ["\u2581", *"48213"]


def test_the_real_vocabulary_is_read_as_published(real):
    # ids of the model card's tokenizer
    assert ids(real, "Hello, my dog is cute") == [22557, 28725, 586, 3914, 349, 17949]
    assert real.get_vocab_size() == 32_000


def test_a_model_whose_tokenizer_puts_a_space_before_every_text_keeps_its_passkeys(tmp_path):
    folder = ROOT / "resources" / "tiny-llama"
    model = load_model(folder, dtype="float32")
    encoder = load_encoder(folder)
    encoder.normalizer = normalizers.Prepend(" ")
    assert ids(encoder, "a") == ids(load_encoder(folder), " a"), "the one difference"
    generator = np.random.default_rng(3)
    factors = closed_form("none", geometry(model, 256), 256)
    right = 0
    for depth in np.linspace(0, 1, 10).tolist():
        made = build_prompt(
            encoder,
            classic_filler(encoder, 256),
            length=256,
            depth=depth,
            key=prompts.draw_key(generator),
        )
        tokens = torch.from_numpy(made.tokens)
        right += bool(
            greedy_matches(
                model, tokens, factors=factors, chunk_length=256, num_last=made.num_answer_tokens
            ).all()
        )
    assert right == 10


def test_filler_ends_at_characters_and_holds_no_special_token():
    made = MADE["byte_level"]
    face = ids(made, "\U0001f642")
    cut = np.array([1, *face[1:], *ids(made, " so "), 2, *face[:-1]])
    assert filler_of(made, cut) == " so "
