"""Tests of encoding documents in spans."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from longrope.data import token_store as corpora
from longrope.data.token_store import encode
from longrope.data.tokenizers import load_encoder
from longrope.errors import UserError

# Encoding -----------------------------------------------------------------------------------------

SOME_TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife. However little known the feelings or views of such a man may be, "
    "this truth is so well fixed; 1813, 2 + 2 = 4. Größe, naïve, déjà vu.\n\n"
)


def byte_level() -> Tokenizer:
    """Return a byte-level BPE tokenizer as of GPT-2 and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([SOME_TEXT], trainer)
    return tokenizer


def of_runs() -> Tokenizer:
    """Return a byte-level BPE tokenizer with tokens for odd numbers of the same character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["a" * 3, "a" * 7, "=" * 5, " " * 9 + "x"] * 5, trainer)
    return tokenizer


def sentence_piece_like() -> Tokenizer:
    """Return a tokenizer as of Llama 2: a space before all, no pre-tokenizer, bytes as a fallback."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, max_token_length=12, show_progress=False
    )
    tokenizer.train_from_iterator(SOME_TEXT.split(","), trainer)
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "sentence-piece": sentence_piece_like()}
OF_RUNS = of_runs()

WORDS = st.sampled_from(SOME_TEXT.split()) | st.text(max_size=8)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", "  ", "\n", ". "])), max_size=250).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)


@pytest.fixture
def small_spans(monkeypatch):
    """Cut texts into spans of 200 characters that overlap by 60."""
    monkeypatch.setattr(corpora, "SPAN_CHARACTERS", 200)
    monkeypatch.setattr(corpora, "OVERLAP_CHARACTERS", 60)


def joined(tokenizer, text):
    """Return the tokens of all spans as one list."""
    return np.concatenate(list(encode(tokenizer, text))).tolist()


def whole(tokenizer, text):
    """Return the tokens of a text encoded at once."""
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS)
@settings(deadline=None)
def test_pieces_join_to_the_encoding_of_the_whole(name, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "SPAN_CHARACTERS", 200)
        patch.setattr(corpora, "OVERLAP_CHARACTERS", 60)
        assert joined(TOKENIZERS[name], text) == whole(TOKENIZERS[name], text)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "unit", [SOME_TEXT, "Größe 🙂 naïve ", "日本語。", "a b ", "\n \n", "١٢٣ "]
)
def test_text_of_many_groups_of_pieces_joins(small_spans, name, unit):
    text = unit * (9000 // len(unit))
    assert joined(TOKENIZERS[name], text) == whole(TOKENIZERS[name], text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_length_around_the_size_of_a_piece_joins(small_spans, name):
    text = SOME_TEXT * 3
    for length in [0, 1, 59, 60, 61, *range(195, 205), *range(335, 345), *range(475, 485)]:
        assert joined(TOKENIZERS[name], text[:length]) == whole(TOKENIZERS[name], text[:length])


def test_special_tokens_are_not_added():
    tokenizer = sentence_piece_like()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    assert tokenizer.encode("a man").ids == [1, *joined(tokenizer, "a man")]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "=", " ", "man in ", "ab"]), st.integers(1, 300)),
        max_size=8,
    )
)
@settings(deadline=None)
def test_runs_longer_than_an_overlap_join_too(runs):
    # no token boundary is safe inside them: where they are cut depends on where they begin
    text = " and ".join(unit * (count // len(unit) + 1) for unit, count in runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "SPAN_CHARACTERS", 200)
        patch.setattr(corpora, "OVERLAP_CHARACTERS", 60)
        assert joined(OF_RUNS, text) == whole(OF_RUNS, text)


def test_only_the_pieces_around_a_run_are_encoded_again(small_spans):
    lengths = []

    class Watched:
        def encode_batch(self, texts, **options):
            lengths.extend(map(len, texts))
            return OF_RUNS.encode_batch(texts, **options)

    text = "".join(SOME_TEXT * 2 + "a" * count for count in range(100, 140))
    assert joined(Watched(), text) == whole(OF_RUNS, text)
    assert 200 < max(lengths) <= 3 * 200, "some runs were cut in two"


def test_a_word_longer_than_a_piece_stays_one_token(small_spans):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "x" * 900: 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    text = "x" * 900 + " " + "y" * 300 + " " + "x" * 900
    assert joined(tokenizer, text) == [1, 0, 1]


def test_memory_does_not_grow_with_the_length_of_a_document(monkeypatch):
    monkeypatch.setattr(corpora, "SPAN_CHARACTERS", 5000)
    monkeypatch.setattr(corpora, "OVERLAP_CHARACTERS", 500)
    peaks = []
    for length in (100_000, 400_000):
        text = SOME_TEXT * (length // len(SOME_TEXT))
        tracemalloc.start()
        try:
            for _ in encode(TOKENIZERS["byte-level"], text):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# The tokenizer of a model folder ------------------------------------------------------------------


def test_a_tokenizer_that_was_saved_cutting_and_padding_does_neither(tmp_path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert joined(load_encoder(tmp_path), SOME_TEXT) == whole(byte_level(), SOME_TEXT)
    assert len(whole(load_encoder(tmp_path), "a")) == 1


def test_a_folder_without_a_tokenizer_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer\.json; save the model's fast tokenizer"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"type": "New"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer"):
        load_encoder(tmp_path)
