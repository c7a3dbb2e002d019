"""The texts that a search scores on: which stretches of which documents are drawn."""

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import search_stage
from hypothesis import given
from hypothesis import strategies as st
from searches import small

from longrope.data.token_store import TokenStore
from longrope.errors import UserError
from longrope.runtime import Workers
from longrope.search.objective import draw_texts

LENGTH = 20
seeds = st.integers(0, 2**32 - 1)
document_lengths = st.lists(st.integers(1, 60), min_size=1, max_size=12).filter(
    lambda lengths: max(lengths) >= LENGTH
)


@contextmanager
def store_of(lengths):
    """Give a store of documents whose tokens count on from one document to the next: none is there twice."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.arange(sum(lengths), dtype=np.uint16).tofile(folder / "tokens.bin")
        np.save(folder / "offsets.npy", np.cumsum([0, *lengths]))
        names = [str(number) for number in range(len(lengths))]
        meta = {"dtype": "uint16", "names": names, "num_tokens": sum(lengths)}
        (folder / "tokens.json").write_text(json.dumps(meta))
        yield TokenStore(folder)


def drawn(store, count, seed, **options):
    """Return keys and tokens of the texts that are drawn."""
    texts = draw_texts(store, length=LENGTH, count=count, seed=seed, what="documents", **options)
    return [(dict(text.key), text.tokens.tolist()) for text in texts]


@given(document_lengths, st.integers(1, 15), seeds)
def test_texts_are_what_their_keys_say_and_lie_within_one_document(lengths, count, seed):
    begins = np.cumsum([0, *lengths]).tolist()
    with store_of(lengths) as store:
        texts = drawn(store, count, seed)
    assert len(texts) == min(count, sum(length // LENGTH for length in lengths))
    for key, tokens in texts:
        assert key["begin"] >= 0 and key["begin"] + LENGTH == key["end"]
        assert key["end"] <= lengths[key["document"]]
        first = begins[key["document"]] + key["begin"]
        assert tokens == list(range(first, first + LENGTH))


@given(document_lengths, st.integers(1, 15), seeds)
def test_documents_differ_while_there_are_enough_and_none_comes_twice_before_all_with_room(
    lengths, count, seed
):
    with store_of(lengths) as store:
        documents = [key["document"] for key, _ in drawn(store, count, seed)]
    num_long = sum(length >= LENGTH for length in lengths)
    assert len(set(documents[:num_long])) == min(count, num_long)
    most = max(documents.count(document) for document in documents)
    for document, length in enumerate(lengths):
        assert documents.count(document) >= min(most - 1, length // LENGTH)


@given(document_lengths, st.integers(1, 40), seeds)
def test_no_token_is_scored_twice(lengths, count, seed):
    with store_of(lengths) as store:
        tokens = [token for _, text in drawn(store, count, seed) for token in text]
    assert len(tokens) == len(set(tokens))


def test_a_document_of_the_length_asked_for_is_scored_once_and_the_log_says_so(caplog):
    with store_of([20]) as store:
        assert [key["begin"] for key, _ in drawn(store, 5, 0)] == [0]
    assert caplog.messages == [
        "documents: 5 asked for; scored stretches: 1, of documents: 1; none overlap"
    ]


def test_nothing_is_logged_where_there_are_enough_documents(caplog):
    with store_of([20, 60, 20]) as store:
        drawn(store, 3, 0)
    assert caplog.messages == []


def test_stretches_of_one_document_lie_wherever_they_fit():
    # 2 of 20 tokens in 42: gaps of at most 2 tokens before, between and behind them
    with store_of([42]) as store:
        firsts = [tuple(key["begin"] for key, _ in drawn(store, 2, seed)) for seed in range(200)]
    assert set(firsts) == {(a, 20 + b) for a in range(3) for b in range(a, 3)}


def test_stretches_that_may_overlap_are_as_many_as_asked_for(caplog):
    with store_of([25, 20]) as store:
        texts = drawn(store, 6, 0, overlapping=True)
    assert [key["document"] for key, _ in texts].count(0) == 3
    assert len(texts) == 6
    assert caplog.messages[0].endswith("stretches: 6, of documents: 2; some may overlap")


# What is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["auto", "cma", "gradient", "evolution"])
def test_factors_say_how_many_texts_of_how_many_documents_were_scored(
    tmp_path, monkeypatch, algorithm
):
    # documents of 300, 200 and 150 tokens have room for 2, 1 and 1 stretches of 128
    asked = {"algorithm": small(algorithm), "num_documents": 1000}
    many = search_stage.SETTINGS.search.model_copy(update=asked)
    settings = search_stage.SETTINGS.model_copy(update={"search": many})
    monkeypatch.setattr(search_stage, "SETTINGS", settings)
    inputs = search_stage.write_inputs(tmp_path)
    factors, history = search_stage.searched(tmp_path / "out", inputs, Workers())
    provenance = json.loads(factors)["provenance"]
    counts = {"num_documents": 3, "num_texts": 4}
    held_out = {"held_out_num_documents": 2, "held_out_num_texts": 2}
    assert (counts | held_out).items() <= provenance.items()
    documents = [json.loads(line)["documents"] for line in history.splitlines()]
    assert {number for row in documents for number in row} == {0, 1, 2, 3}


@given(document_lengths, st.integers(1, 15), seeds)
def test_the_same_seed_draws_the_same_texts(lengths, count, seed):
    with store_of(lengths) as store:
        assert drawn(store, count, seed) == drawn(store, count, seed)


def test_other_seeds_draw_other_texts_and_in_the_end_all_there_are():
    # documents of 20 and 22 tokens have 1 and 3 stretches of 20; none has the one of 19
    with store_of([20, 19, 22]) as store:
        texts = [drawn(store, 1, seed)[0][0] for seed in range(100)]
    places = {(key["document"], key["begin"]) for key in texts}
    assert places == {(0, 0), (2, 0), (2, 1), (2, 2)}
    documents = [key["document"] for key in texts]
    assert documents.count(0) == pytest.approx(50, abs=25), "by document, whatever its length"


def test_where_no_document_is_long_enough_the_longest_is_named():
    with (
        store_of([19, 7]) as store,
        pytest.raises(
            UserError, match="documents: no document has 20 tokens, the longest has 19; ask"
        ),
    ):
        drawn(store, 2, 0)
