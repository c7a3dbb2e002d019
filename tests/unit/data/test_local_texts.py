"""Tests of local texts by file, folder and pattern: selected files, digests, refusals."""

import hashlib
import json
import os
from pathlib import Path

import command_line
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.cli import run
from longrope.errors import UserError
from longrope.plan import build as plan
from longrope.settings import loading as configuration
from longrope.store import files
from longrope.store.files import RawFiles

NAMES = (
    *("a.txt", "b.jsonl", "c.jsonl.gz", "d.jsonl.zst", "e.parquet", "notes.md", ".hidden.txt"),
    *("deep/er/a.txt", "deep/f.txt", "deep/.git/g.txt", "other/h.csv"),
)
DOCUMENTS = (
    *("a.txt", "b.jsonl", "c.jsonl.gz", "d.jsonl.zst", "deep/er/a.txt", "deep/f.txt"),
    "e.parquet",
)
"""those of a folder of NAMES, in the order in which they are read"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with a model that only looks like one and texts; return it."""
    command_line.write_files(tmp_path)
    for name in NAMES:
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"contents of {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*entries):
    """Return the plan of texts to train on."""
    config = configuration.load(Path("config.yaml")).model_dump(exclude_unset=True)
    config["corpora"]["own"]["source"]["files"]["train"] = entries
    return plan.build(configuration.parse(config, source="config.yaml"), Path.cwd())


def tokenized(*entries):
    return planned(*entries).nodes["tokenize/tiny-own-train"]


def file_names(*entries):
    """Return the names of the files that entries stand for, in the order in which they are read."""
    raw = tokenized(*entries).raw["documents"]
    assert raw.path == "."
    for name, digest in raw.files.items():
        assert digest == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    return list(raw.files)


def refusal(*entries):
    with pytest.raises(UserError) as caught:
        planned(*entries)
    return str(caught.value)


# Selected files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ["texts", "texts/", "./texts", "deep/../texts"])
def test_a_folder_stands_for_all_documents_below_it_in_the_order_of_their_names(folder, entry):
    (folder / "deep").mkdir()
    prefix = "deep/../texts" if ".." in entry else "texts"
    assert file_names(entry) == [f"{prefix}/{name}" for name in DOCUMENTS]


def test_a_folder_elsewhere_is_named_as_it_was_given(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "a.txt").write_text("text")
    assert file_names(str(other)) == [f"{other}/a.txt"]


def test_the_working_folder_itself_may_be_named(folder):
    # JSON holds documents too: a folder with other JSON beside its texts is no corpus
    others = {"model/config.json", "model/tokenizer.json"}
    assert set(file_names(".")) - others == {
        "own.txt",
        "other.txt",
        *(f"texts/{name}" for name in DOCUMENTS),
    }


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("texts/*.txt", ["a.txt"]),
        ("texts/**/*.txt", ["a.txt", "deep/er/a.txt", "deep/f.txt"]),
        ("texts/**/a.*", ["a.txt", "deep/er/a.txt"]),
        ("texts/[ab].*", ["a.txt", "b.jsonl"]),
        ("texts/?.parquet", ["e.parquet"]),
        # folders that match are no files
        ("texts/dee*/*", ["deep/f.txt"]),
    ],
)
def test_a_pattern_stands_for_the_files_that_it_matches(folder, pattern, names):
    assert file_names(pattern) == [f"texts/{name}" for name in names]


def test_a_file_that_is_named_twice_is_read_once(folder):
    assert file_names("texts", "texts/a.txt", "own.txt", "texts/*.txt") == [
        "own.txt",
        *(f"texts/{name}" for name in DOCUMENTS),
    ]


def test_signs_of_patterns_in_names_that_are_there_are_letters(folder):
    (folder / "a[1].txt").write_text("text")
    (folder / "more[12]").mkdir()
    (folder / "more[12]" / "b.txt").write_text("text")
    (folder / "more1").mkdir()
    (folder / "more1" / "c.txt").write_text("text")
    assert file_names("a[1].txt") == ["a[1].txt"]
    assert file_names("more[12]") == ["more[12]/b.txt"]


def test_a_hidden_file_is_read_where_it_is_named(folder):
    assert file_names("texts/.hidden.txt") == ["texts/.hidden.txt"]


def test_files_in_capitals_are_found_in_a_folder(folder):
    names = ("A.TXT", "B.JSONL", "C.JSONL.GZ", "D.Parquet", "notes.MD")
    (folder / "loud").mkdir()
    for name in names:
        (folder / "loud" / name).write_text("contents")
    assert file_names("loud") == [f"loud/{name}" for name in names[:-1]]


def test_files_behind_a_link_to_a_folder_are_found(folder):
    os.symlink("texts", folder / "linked")
    assert file_names("linked") == [f"linked/{name}" for name in DOCUMENTS]


# The digest ---------------------------------------------------------------------------------------


def test_a_folder_and_its_files_one_by_one_are_the_same_corpus(folder):
    by_name = tokenized(*(f"texts/{name}" for name in reversed(DOCUMENTS)))
    assert tokenized("texts").digest == by_name.digest
    assert list(tokenized("texts").raw["documents"].files) == list(by_name.raw["documents"].files)


def test_another_file_name_or_content_is_another_corpus_and_what_is_no_document_is_not(folder):
    digests = [tokenized("texts").digest]
    (folder / "texts" / "notes.md").write_text("other notes")
    assert tokenized("texts").digest == digests[0]
    for change in (
        lambda: (folder / "texts" / "deep" / "new.txt").write_text("text"),
        lambda: (folder / "texts" / "deep" / "new.txt").rename(folder / "texts" / "new.txt"),
        lambda: (folder / "texts" / "new.txt").write_text("text, and more"),
        lambda: (folder / "texts" / "new.txt").unlink(),
    ):
        change()
        digests.append(tokenized("texts").digest)
    assert len(set(digests[:-1])) == 4
    assert digests[-1] == digests[0]


def test_the_digest_of_a_file_that_is_named_has_its_name_as_it_was_given(folder):
    text = hashlib.sha256(b"one two one").hexdigest()
    for name in ("own.txt", "./own.txt", f"{folder}/own.txt"):
        assert tokenized(name).raw["documents"].files == {name: text}


def test_a_job_refuses_a_folder_one_of_whose_files_changed(folder):
    nodes = json.loads(planned("texts").to_json())["nodes"]
    spec = next(spec for spec in nodes.values() if spec["label"] == "tiny-own-train")
    (folder / "texts" / "deep" / "f.txt").write_text("changed since")
    with pytest.raises(UserError, match=r"texts/deep/f\.txt changed since it was planned"):
        run._inputs(folder / "results", nodes, spec, checked=False)


# Refusals -----------------------------------------------------------------------------------------

REMEDY = (
    "; give files that end in one of .txt, .txt.gz, .txt.zst, .jsonl, .jsonl.gz, .jsonl.zst, "
    ".json, .json.gz, .json.zst, .parquet, folders of them or patterns that match them."
)


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("none.txt", "none.txt: there is no such file"),
        ("texts/*.jsn", "texts/*.jsn: there is no such file"),
        ("texts/other", "texts/other: there is no such file"),
        ("texts/deep/.git/*.csv", "texts/deep/.git/*.csv: there is no such file"),
        ("texts/notes.md", "texts/notes.md: texts/notes.md cannot be read"),
        ("texts/other/*", "texts/other/*: texts/other/h.csv cannot be read"),
        ("texts/**/*.csv", "texts/**/*.csv: texts/other/h.csv cannot be read"),
    ],
)
def test_what_stands_for_no_documents_is_refused_by_its_name(folder, entry, wrong):
    sentence = f"corpora.own.source.files.train: {folder}/{wrong}{REMEDY}"
    assert refusal(entry) == refusal("own.txt", entry) == sentence


# Digests of many files ----------------------------------------------------------------------------


@given(names=st.lists(st.sampled_from("abcde"), min_size=1))
def test_digests_come_in_the_order_asked_for(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("files")
    for name in names:
        (folder / name).write_text(name)
    expected = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    assert RawFiles().digests([folder / name for name in names]) == expected


@pytest.mark.parametrize(("seconds", "times"), [(60.0, 1), (-1.0, 5)])
def test_what_was_read_of_many_files_is_saved_now_and_then_and_at_the_end(
    tmp_path, monkeypatch, seconds, times
):
    monkeypatch.setattr(files, "SAVE_SECONDS", seconds)
    paths = [tmp_path / name for name in "abcde"]
    for path in paths:
        path.write_text(path.name)
    memory = tmp_path / "memory.json"
    saved = []
    monkeypatch.setattr(
        Path, "replace", lambda source, target: saved.append(os.replace(source, target))
    )
    RawFiles(memory).digests(paths)
    assert len(saved) == times
    RawFiles(memory).digests(paths)
    assert len(saved) == times, "nothing new is not saved"
    assert len(json.loads(memory.read_text())) == 5
