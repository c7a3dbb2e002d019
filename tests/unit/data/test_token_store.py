"""Token stores: what is written is what is read, and the stage that writes them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from longrope.data.documents import NamedText
from longrope.data.token_store import TokenStore, write_store
from longrope.errors import UserError
from longrope.runtime import Input, Runtime
from longrope.settings.nodes import TokenizeNode
from longrope.stages import tokenize


class Characters:
    """An encoder with a token a character."""

    def encode_batch(self, input, is_pretokenized=False, add_special_tokens=True):
        assert not add_special_tokens
        return [
            SimpleNamespace(
                ids=list(map(ord, text)), offsets=[(i, i + 1) for i in range(len(text))]
            )
            for text in input
        ]


def ids(text):
    """Return the tokens of a text."""
    return list(map(ord, text))


def stored(folder, *texts, vocabulary_size=2**21, join_to=None):
    """Return a store of documents named a, b, c and so on."""
    documents = [NamedText(chr(ord("a") + index), text) for index, text in enumerate(texts)]
    write_store(folder, documents, Characters(), vocabulary_size, join_to=join_to)
    return TokenStore(folder)


def test_documents_come_back_with_names_lengths_and_offsets(tmp_path):
    store = stored(tmp_path, "one", "three", "🙂")
    assert len(store) == 3
    assert store.names == ["a", "b", "c"]
    assert store.offsets.tolist() == [0, 3, 8, 9]
    assert store.lengths.tolist() == [3, 5, 1]
    assert [store.document(index).tolist() for index in range(3)] == [
        ids("one"),
        ids("three"),
        [0x1F642],
    ]
    assert store.document(0).dtype == np.int64


@given(
    texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6),
    begin=st.integers(0, 40),
    end=st.none() | st.integers(0, 40),
)
def test_a_part_of_a_document_is_that_slice_of_it(tmp_path_factory, texts, begin, end):
    store = stored(tmp_path_factory.mktemp("store"), *texts)
    for index, text in enumerate(texts):
        assert store.document(index, begin, end).tolist() == ids(text)[begin:end]


@pytest.mark.parametrize(
    ("vocabulary_size", "dtype", "size"),
    [(2**16, "uint16", 2), (2**16 + 1, "uint32", 4)],
)
def test_tokens_take_two_bytes_where_the_vocabulary_allows(tmp_path, vocabulary_size, dtype, size):
    largest = chr(vocabulary_size - 1)
    store = stored(tmp_path, "abc" + largest, vocabulary_size=vocabulary_size)
    assert json.loads((tmp_path / "tokens.json").read_text())["dtype"] == dtype
    assert (tmp_path / "tokens.bin").stat().st_size == 4 * size
    assert store.document(0).tolist() == [*ids("abc"), vocabulary_size - 1]


def test_documents_are_views_of_the_file_and_not_copies_of_it(tmp_path):
    store = stored(tmp_path, "one", "two")
    assert isinstance(store._flat, np.memmap)
    assert store._flat.mode == "r"


def test_long_enough_documents_are_found_and_their_lack_is_named(tmp_path):
    store = stored(tmp_path, "four", "longest", "seven!!")
    assert store.long_enough(5, "search") == [1, 2]
    assert store.long_enough(7, "search") == [1, 2]
    with pytest.raises(UserError) as caught:
        store.long_enough(8, "search at 8")
    assert str(caught.value) == (
        "search at 8: no document has 8 tokens, the longest has 7; "
        "ask for shorter lengths or give the corpus longer documents."
    )


def test_neighbours_are_joined_until_long_enough_and_a_short_rest_is_dropped(tmp_path):
    store = stored(tmp_path, "aa", "bb", "c", "ddddd", "e", "ff", join_to=4)
    assert store.names == ["a + b", "c + d"]
    assert store.lengths.tolist() == [4, 6]
    assert store.document(0).tolist() == ids("aabb")
    assert store.document(1).tolist() == ids("cddddd")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 12))
def test_joined_documents_are_long_enough_and_a_prefix_of_all_text(
    tmp_path_factory, lengths, join_to
):
    texts = [chr(ord("a") + index) * length for index, length in enumerate(lengths)]
    if sum(lengths) < join_to:
        return
    store = stored(tmp_path_factory.mktemp("store"), *texts, join_to=join_to)
    assert (store.lengths >= join_to).all()
    parts = [store.document(index).tolist() for index in range(len(store))]
    read = [token for part in parts for token in part]
    everything = ids("".join(texts))
    assert read == everything[: len(read)]
    assert len(everything) - len(read) < join_to


@pytest.mark.parametrize("texts", [(), ("ab", "c")])
def test_no_document_at_all_is_refused(tmp_path, texts):
    with pytest.raises(UserError, match="the corpus has no documents"):
        stored(tmp_path, *texts, join_to=4)


def test_documents_without_a_token_are_refused(tmp_path):
    with pytest.raises(UserError, match="no tokens"):
        stored(tmp_path, "", "")


# The stage ----------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path):
    """A folder with a tokenizer of words, one of them beyond the gaps of its numbering."""
    words = {"[UNK]": 0, "one": 1, "two": 2, "far": 70_000}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "model").mkdir()
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    return Input(tmp_path / "model", "digest")


def tokenized(tmp_path, tokenizer, documents, **changes):
    """Return the store that the stage makes of a source of documents."""
    out = tmp_path / "out"
    out.mkdir()
    inputs = {"documents": documents, "tokenizer": tokenizer}
    tokenize.run(TokenizeNode(**changes), inputs, out, Runtime(tmp_path, tmp_path))
    return TokenStore(out)


def test_fetched_documents_are_tokenized_in_the_order_of_their_names(tmp_path, tokenizer):
    folder = tmp_path / "fetched" / "documents"
    (folder / "part").mkdir(parents=True)
    (folder / "0001-b.txt").write_text("two two")
    (folder / "0000-a.txt").write_text("one two far")
    (folder / "part" / "c.jsonl").write_text('{"text": "one"}\n')
    store = tokenized(tmp_path, tokenizer, Input(tmp_path / "fetched", "digest"))
    assert store.names == ["0000-a", "0001-b", "c-1"]
    assert store.document(0).tolist() == [1, 2, 70_000], "no wrap-around at 65536"
    assert store.document(1).tolist() == [2, 2]


def test_a_fetched_file_that_holds_no_documents_is_refused_by_name(tmp_path, tokenizer):
    folder = tmp_path / "fetched" / "documents"
    folder.mkdir(parents=True)
    (folder / "0000-a.txt").write_text("one two far")
    (folder / "rows.csv").write_text("text")
    with pytest.raises(UserError, match=r"rows\.csv: a corpus file must end in"):
        tokenized(tmp_path, tokenizer, Input(tmp_path / "fetched", "digest"))


def test_files_of_ones_own_are_tokenized_in_the_order_given(tmp_path, tokenizer):
    (tmp_path / "b.txt").write_text("one")
    (tmp_path / "a.txt").write_text("two")
    source = Input(tmp_path, "digest", ("b.txt", "a.txt"))
    assert tokenized(tmp_path, tokenizer, source).names == ["b", "a"]


def test_only_the_first_documents_are_read_where_their_number_is_limited(tmp_path, tokenizer):
    rows = ['{"text": "one"}', '{"text": "two"}', "broken, but never read"]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    source = Input(tmp_path, "digest", ("a.jsonl",))
    assert tokenized(tmp_path, tokenizer, source, max_documents=2).lengths.tolist() == [1, 1]
