"""Tests of the score memory: values, concurrent writers, lines torn by a kill."""

import json
import math
import multiprocessing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.store.score_memory import ScoreMemory

CONTEXT = {"model": "m", "tokens": "t", "dtype": "float32", "code": "c"}
KEY = {"factors": [1.0, 2.5], "start_tokens": 0}


def only_file(root: Path) -> Path:
    """Return the only file in a memory of one writer."""
    (path,) = root.rglob("*.jsonl")
    return path


def test_a_score_is_there_for_its_writer_and_for_a_later_reader(tmp_path):
    memory = ScoreMemory(tmp_path, CONTEXT)
    memory.put(KEY, [2.5, 7])
    assert memory.get(KEY) == [2.5, 7]
    assert ScoreMemory(tmp_path, CONTEXT).get(KEY) == [2.5, 7]


@given(st.recursive(st.floats(allow_nan=False), st.lists, max_leaves=6))
def test_values_come_back_bit_for_bit(tmp_path_factory, value):
    root = tmp_path_factory.mktemp("scores")
    ScoreMemory(root, CONTEXT).put(KEY, value)
    stored = ScoreMemory(root, CONTEXT).get(KEY)
    assert repr(stored) == repr(value)


def test_a_score_that_is_not_a_number_comes_back(tmp_path):
    ScoreMemory(tmp_path, CONTEXT).put(KEY, math.nan)
    assert math.isnan(ScoreMemory(tmp_path, CONTEXT).get(KEY))


def test_a_score_of_zero_is_remembered(tmp_path):
    memory = ScoreMemory(tmp_path, CONTEXT)
    assert memory.get(KEY) is None
    memory.put(KEY, 0.0)
    assert memory.get(KEY) == 0.0


@pytest.mark.parametrize("part", CONTEXT)
def test_another_context_sees_nothing(tmp_path, part):
    ScoreMemory(tmp_path, CONTEXT).put(KEY, 1.0)
    assert ScoreMemory(tmp_path, CONTEXT | {part: "other"}).get(KEY) is None


def test_another_key_sees_nothing(tmp_path):
    memory = ScoreMemory(tmp_path, CONTEXT)
    memory.put(KEY, 1.0)
    assert memory.get(KEY | {"start_tokens": 1}) is None
    assert memory.get(KEY | {"factors": [1.0, math.nextafter(2.5, 3)]}) is None


def test_the_order_of_a_keys_parts_does_not_matter(tmp_path):
    memory = ScoreMemory(tmp_path, CONTEXT)
    memory.put(KEY, 1.0)
    assert memory.get(dict(reversed(KEY.items()))) == 1.0


def test_a_line_torn_anywhere_is_ignored_and_those_before_it_kept(tmp_path):
    memory = ScoreMemory(tmp_path, CONTEXT)
    memory.put(KEY, 1.0)
    memory.put({"second": 2}, 2.0)
    path = only_file(tmp_path)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        torn = ScoreMemory(tmp_path, CONTEXT)
        assert torn.get(KEY) == 1.0
        assert torn.get({"second": 2}) is None


@pytest.mark.parametrize("rubbish", [b"\0" * 40, b"[1]", b"3", b"\xff\xfe", b'["a", 1, 2]'])
def test_a_line_of_rubbish_is_ignored_and_those_after_it_kept(tmp_path, rubbish):
    # a crashed machine may leave these in place of data that never reached the disk
    ScoreMemory(tmp_path, CONTEXT).put(KEY, 1.0)
    path = only_file(tmp_path)
    path.write_bytes(rubbish + b"\n" + path.read_bytes())
    assert ScoreMemory(tmp_path, CONTEXT).get(KEY) == 1.0


def test_a_torn_score_can_be_written_again(tmp_path):
    ScoreMemory(tmp_path, CONTEXT).put(KEY, 1.0)
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    ScoreMemory(tmp_path, CONTEXT).put(KEY, 3.0)
    assert ScoreMemory(tmp_path, CONTEXT).get(KEY) == 3.0


def test_two_memories_of_one_process_never_share_a_file(tmp_path):
    memories = [ScoreMemory(tmp_path, CONTEXT) for _ in range(20)]
    for index, memory in enumerate(memories):
        memory.put({"index": index}, index)
    assert len(list(tmp_path.rglob("*.jsonl"))) == 20
    later = ScoreMemory(tmp_path, CONTEXT)
    assert [later.get({"index": index}) for index in range(20)] == list(range(20))


def write_many(root: Path, writer: int) -> None:
    memory = ScoreMemory(root, CONTEXT)
    for index in range(200):
        memory.put({"writer": writer, "index": index}, [writer + 0.1, "x" * 500])


def test_processes_that_write_at_once_lose_nothing(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=write_many, args=(tmp_path, number)) for number in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    paths = list(tmp_path.rglob("*.jsonl"))
    assert len(paths) == 2
    assert all(len(path.read_text().splitlines()) == 200 for path in paths)
    later = ScoreMemory(tmp_path, CONTEXT)
    assert all(later.get({"writer": w, "index": i}) for w in range(2) for i in range(200))


def test_a_reader_leaves_no_file(tmp_path):
    ScoreMemory(tmp_path, CONTEXT).get(KEY)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_lines_are_json_that_other_tools_can_read(tmp_path):
    ScoreMemory(tmp_path, CONTEXT).put(KEY, {"loss": 0.1, "text": "a\u2028b\n"})
    (line,) = only_file(tmp_path).read_text().split("\n")[:-1]
    assert json.loads(line)[1] == {"loss": 0.1, "text": "a\u2028b\n"}
