"""The texts that a search scores on: which stretches of which documents are drawn."""

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.corpora import TokenStore
from longrope.errors import UserError
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


def drawn(store, count, seed):
    """Return keys and tokens of the texts that are drawn."""
    texts = draw_texts(store, length=LENGTH, count=count, seed=seed, what="search documents")
    return [(dict(text.key), text.tokens.tolist()) for text in texts]


@given(document_lengths, st.integers(1, 15), seeds)
def test_texts_are_what_their_keys_say_and_lie_within_one_document(lengths, count, seed):
    begins = np.cumsum([0, *lengths]).tolist()
    with store_of(lengths) as store:
        found = drawn(store, count, seed)
    assert len(found) == count
    for key, tokens in found:
        assert key["begin"] >= 0 and key["begin"] + LENGTH == key["end"]
        assert key["end"] <= lengths[key["document"]]
        first = begins[key["document"]] + key["begin"]
        assert tokens == list(range(first, first + LENGTH))


@given(document_lengths, st.integers(1, 15), seeds)
def test_documents_differ_while_there_are_enough_and_then_come_equally_often(lengths, count, seed):
    with store_of(lengths) as store:
        documents = [key["document"] for key, _ in drawn(store, count, seed)]
    num_long = sum(length >= LENGTH for length in lengths)
    assert len(set(documents)) == min(count, num_long)
    times = np.unique(documents, return_counts=True)[1]
    assert times.max() - times.min() <= 1


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
            UserError, match="search documents: no document has 20 tokens, the longest has 19; ask"
        ),
    ):
        drawn(store, 2, 0)
