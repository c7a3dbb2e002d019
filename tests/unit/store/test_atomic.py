"""Files written in one step: whole or as they were, also after an error or a kill."""

import pytest

from longrope.store import commit
from longrope.store.atomic import write_text, written_whole


def test_a_file_is_written_into_a_folder_that_was_missing(tmp_path):
    path = tmp_path / "deep" / "er" / "notes.txt"
    write_text(path, "snö")
    assert path.read_bytes() == "snö".encode()
    assert [file.name for file in path.parent.iterdir()] == ["notes.txt"]


def test_after_an_error_the_file_is_as_it_was_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), written_whole(path) as scratch:
        scratch.write_text("half")
        assert path.read_text() == "before"
        raise RuntimeError
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_writers_of_one_file_do_not_share_a_scratch_file(tmp_path):
    path = tmp_path / "notes.txt"
    with written_whole(path) as first, written_whole(path) as second:
        first.write_text("first")
        second.write_text("second")
    # the inner block ends first
    assert path.read_text() == "first"


def test_what_a_killed_write_leaves_is_no_output_of_the_node(tmp_path):
    killed = []

    def compute(work):
        write = written_whole(work / "result")
        write.__enter__().write_text("half")
        killed.append(write)  # a reference, or leaving it would tidy up
        write_text(work / "result", "whole")

    final = commit.run(tmp_path, "search/a-0123456789ab", {}, compute, dict)
    assert sorted(path.name for path in final.iterdir()) == ["DONE", "manifest.json", "result"]
    assert commit.problem(final) is None


def test_a_refusal_names_the_file_and_not_its_scratch(tmp_path):
    with (
        pytest.raises(FileNotFoundError) as refused,
        written_whole(tmp_path / "none" / "a") as path,
    ):
        path.write_text("text")
    assert refused.value.filename == str(tmp_path / "none" / "a")
