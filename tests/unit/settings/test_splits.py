"""Splits that divide the same files by document."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from longrope.settings.sources import CorpusSettings

FILES = {"all": ["texts"]}


def corpus(splits, files=FILES):
    return CorpusSettings(source={"kind": "local", "files": files}, splits=splits)


def test_of_five_documents_three_are_for_training():
    divided = corpus({"train": 3, "validation": 1, "test": 1})
    shares = {name: divided.share(name) for name in divided.splits}
    assert {name: share.places for name, share in shares.items()} == {
        "train": [0, 3, 4],
        "validation": [1],
        "test": [2],
    }
    assert {share.of for share in shares.values()} == {5}
    assert {divided.file_split(name) for name in shares} == {"all"}


@given(
    st.dictionaries(st.text("abc", min_size=1), st.integers(1, 9), min_size=1, max_size=4),
    st.integers(0, 40),
)
def test_every_document_is_in_exactly_one_split(splits, number):
    shares = [corpus(splits).share(name) for name in splits]
    assert sum(number % share.of in share.places for share in shares) == 1
    for share, weight in zip(shares, splits.values(), strict=True):
        assert len(share.places) == weight


@pytest.mark.parametrize(
    ("splits", "files"),
    [({"a": 1}, {"x": ["1"], "y": ["2"]}), ({}, FILES), ({"a": 0}, FILES), ({"a": 1}, {})],
)
def test_splits_that_divide_nothing_are_refused(splits, files):
    with pytest.raises(ValidationError):
        corpus(splits, files)


def test_a_split_that_no_entry_names_is_refused():
    with pytest.raises(KeyError):
        corpus({"train": 1}).share("test")
    assert corpus(None).share("test") is None
