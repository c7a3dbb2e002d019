"""The store: identity of values, committed nodes and what damages them, raw files."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.errors import UserError
from longrope.store import commit, files, identity
from longrope.store.files import RawFiles

KEY = "search/tiny-0123456789ab"

# Values -------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


def test_canonical_text_has_sorted_keys_and_no_spaces():
    assert identity.canonical({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'


def test_digest_is_the_sha256_that_coreutils_computes():
    # printf '{"a":1}' | sha256sum
    expected = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert identity.digest({"a": 1}) == expected


@given(JSON)
def test_canonical_text_survives_a_round_trip(value):
    text = identity.canonical(value)
    assert identity.canonical(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_order_of_keys_does_not_change_the_digest(value):
    assert identity.digest(value) == identity.digest(dict(reversed(value.items())))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_refused(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        identity.digest({"a": number})


def test_a_file_has_the_digest_of_its_bytes(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert identity.file_digest(tmp_path / "empty") == expected


# Nodes --------------------------------------------------------------------------------------------


def compute(work: Path) -> None:
    """Fill a work directory with two files."""
    (work / "table.json").write_text('{"loss": 2.5}')
    (work / "part").mkdir(exist_ok=True)
    (work / "part" / "data.bin").write_bytes(bytes(range(256)))


def never(work: Path) -> None:
    """Fail the test: nothing may be computed."""
    raise AssertionError(f"computed {work}")


def facts() -> dict[str, object]:
    """Return the further entries of the manifest."""
    return {"machine": "test"}


def made(store: Path) -> Path:
    """Return the directory of the finished node."""
    return commit.run(store, KEY, {"kind": "search"}, compute, facts)


def test_a_node_is_committed_with_its_files_manifest_and_mark(tmp_path):
    final = made(tmp_path)
    assert final == tmp_path / KEY
    assert sorted(p.name for p in final.iterdir()) == [
        "DONE",
        "manifest.json",
        "part",
        "table.json",
    ]
    manifest = json.loads((final / "manifest.json").read_text())
    assert manifest["node"] == {"kind": "search"}
    assert manifest["machine"] == "test"
    assert manifest["files"].keys() == {"table.json", "part/data.bin"}
    assert manifest["files"]["part/data.bin"] == {
        "size": 256,
        # sha256sum of the bytes 0..255
        "sha256": "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880",
    }
    done = (final / "DONE").read_text()
    assert done == identity.file_digest(final / "manifest.json") + "\n"
    assert commit.problem(final) is None
    assert not (tmp_path / ".work" / KEY).exists()


def test_a_second_run_verifies_and_does_not_compute(tmp_path, capsys):
    final = made(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in final.rglob("*") if path.name != "DONE"}
    assert commit.run(tmp_path, KEY, {}, never, facts) == final
    assert "not computed again" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_lost_mark_is_made_again_without_computing(tmp_path):
    final = made(tmp_path)
    (final / "DONE").unlink()
    commit.run(tmp_path, KEY, {}, never, facts)
    assert (final / "DONE").is_file()


def test_a_directory_that_snakemake_made_beforehand_is_replaced(tmp_path):
    (tmp_path / KEY).mkdir(parents=True)
    assert commit.problem(made(tmp_path)) is None
    assert not (tmp_path / ".trash").exists()


def test_resume_state_is_never_committed(tmp_path):
    def with_state(work: Path) -> None:
        compute(work)
        (work / "_state.json").write_text("{}")
        (work / "_checkpoints").mkdir()
        (work / "_checkpoints" / "1.pt").write_text("weights")

    final = commit.run(tmp_path, KEY, {}, with_state, facts)
    assert not list(final.glob("_*"))
    assert commit.problem(final) is None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {
    "part/data.bin has another checksum": lambda final: flip(final / "part/data.bin"),
    "table.json has another checksum": lambda final: flip(final / "table.json"),
    "part/data.bin is missing or has another size": lambda final: truncate(final / "part/data.bin"),
    "table.json is missing or has another size": lambda final: (final / "table.json").unlink(),
    "manifest.json is missing": lambda final: (final / "manifest.json").unlink(),
    "manifest.json has another checksum than DONE says": lambda final: (
        final / "manifest.json"
    ).write_text('{"files": {}}'),
}


@pytest.mark.parametrize("reason", DAMAGES)
def test_damage_is_named_set_aside_and_made_anew(tmp_path, reason):
    final = made(tmp_path)
    DAMAGES[reason](final)
    assert commit.problem(final) == reason
    with pytest.raises(UserError, match="damaged") as caught:
        commit.require_sound(tmp_path, KEY)
    assert reason in str(caught.value)
    assert not final.exists()
    (discarded,) = (tmp_path / ".trash").iterdir()
    assert discarded.name.startswith("tiny-0123456789ab.")
    made(tmp_path)
    assert commit.require_sound(tmp_path, KEY) == final


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": 1}}', "\xff"])
def test_a_manifest_that_says_nothing_is_a_problem(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, encoding="latin-1")
    assert commit.problem(tmp_path) == "manifest.json is not a manifest"


def test_any_flipped_byte_of_any_file_is_a_problem(tmp_path):
    final = made(tmp_path)
    for path in [path for path in final.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for index in range(0, len(whole), 7):
            path.write_bytes(whole[:index] + bytes([whole[index] ^ 4]) + whole[index + 1 :])
            assert commit.problem(final) is not None, (path, index)
        path.write_bytes(whole)
    assert commit.problem(final) is None


def test_without_checksums_only_sizes_are_compared(tmp_path):
    final = made(tmp_path)
    flip(final / "table.json")
    assert commit.problem(final, checksums=False) is None
    truncate(final / "table.json")
    assert commit.problem(final, checksums=False) is not None


def test_a_damaged_node_is_set_aside_only_once_its_successor_is_whole(tmp_path):
    final = made(tmp_path)
    flip(final / "table.json")

    def fails(work: Path) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        commit.run(tmp_path, KEY, {}, fails, facts)
    assert (final / "table.json").is_file()
    made(tmp_path)
    assert len(list((tmp_path / ".trash").iterdir())) == 1


def test_an_input_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{KEY} is not there; run snakemake"):
        commit.require_sound(tmp_path, KEY)


# A full disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_in_a_sentence_and_writes_nothing_half(tmp_path, code):
    def fills(work: Path) -> None:
        (work / "table.json").write_text("{")
        raise OSError(code, os.strerror(code))

    with pytest.raises(UserError, match=r"no space left for .*; free some and run again"):
        commit.run(tmp_path, KEY, {}, fills, facts)
    assert not (tmp_path / KEY).exists()
    assert commit.problem(made(tmp_path)) is None


def test_a_write_that_the_system_refuses_for_space_ends_in_the_same_sentence(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full")
    with pytest.raises(UserError, match="no space left"):
        commit.run(tmp_path, KEY, {}, lambda _: Path("/dev/full").write_text("x"), facts)


def test_another_failure_of_the_system_is_not_called_a_full_disk(tmp_path):
    with pytest.raises(FileNotFoundError):
        commit.run(tmp_path, KEY, {}, lambda work: (work / "none").read_text(), facts)
    assert not (tmp_path / KEY).exists()


ON_A_FULL_DISK = """
import sys
from pathlib import Path
import numpy as np
from longrope.errors import UserError
from longrope.store import commit

store = Path(sys.argv[1])
def compute(work):
    np.save(work / "a.npy", np.zeros(10**6))
try:
    commit.run(store, "a/b", {}, compute, dict)
except UserError as error:
    print(error)
assert not (store / "a").exists()
"""


def test_a_really_full_file_system_ends_in_the_same_sentence(tmp_path):
    # numpy raises an OSError without a number when a write falls short
    store = tmp_path / "store"
    store.mkdir()
    mount = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$1" && shift && "$@"']
    mount += ["sh", str(store)]
    if subprocess.run([*mount, "true"], capture_output=True).returncode != 0:
        pytest.skip("a file system cannot be mounted here")
    command = [*mount, sys.executable, "-c", ON_A_FULL_DISK, str(store)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no space left for" in done.stdout


# Raw files ----------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, in order."""
    read: list[str] = []

    def counted(path: Path) -> str:
        read.append(path.name)
        return identity.file_digest(path)

    monkeypatch.setattr(files, "file_digest", counted)
    return read


def test_an_unchanged_file_is_read_once_even_by_a_later_process(tmp_path, reads):
    (tmp_path / "a.txt").write_text("some text")
    memory = tmp_path / "store" / ".raw-files.json"
    first = RawFiles(memory).digest(tmp_path / "a.txt")
    later = RawFiles(memory)
    assert later.digest(tmp_path / "a.txt") == later.digest(tmp_path / "a.txt") == first
    assert first == identity.file_digest(tmp_path / "a.txt")
    assert reads == ["a.txt"]


def rewritten(path: Path) -> None:
    path.write_text("same size")
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    times = path.stat()
    other = path.with_name("b.txt")
    other.write_text("same size")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("longer than before"), os.utime, rewritten, replaced],
    ids=["size", "time", "contents of the same size", "another file of the same size and time"],
)
def test_a_touched_file_is_read_again(tmp_path, reads, change):
    path = tmp_path / "a.txt"
    path.write_text("some text")
    os.utime(path, ns=(0, 0))
    memory = tmp_path / "memory.json"
    RawFiles(memory).digest(path)
    change(path)
    assert RawFiles(memory).digest(path) == identity.file_digest(path)
    assert len(reads) == 2


def test_two_processes_keep_what_the_other_one_read(tmp_path, reads):
    memory = tmp_path / "memory.json"
    for name in "ab":
        (tmp_path / name).write_text(name)
    first, second = RawFiles(memory), RawFiles(memory)
    first.digest(tmp_path / "a")
    second.digest(tmp_path / "b")
    later = RawFiles(memory)
    assert [later.digest(tmp_path / name) for name in "ab"] == [
        identity.file_digest(tmp_path / name) for name in "ab"
    ]
    assert reads == ["a", "b"]


def test_what_another_process_read_later_is_not_overwritten(tmp_path, reads):
    path, memory = tmp_path / "a", tmp_path / "memory.json"
    path.write_text("one")
    RawFiles(memory).digest(path)
    early = RawFiles(memory)
    path.write_text("longer")
    RawFiles(memory).digest(path)
    (tmp_path / "b").write_text("b")
    early.digest(tmp_path / "b")
    RawFiles(memory).digest(path)
    assert reads == ["a", "a", "b"]


def test_the_memory_does_not_grow_with_the_versions_of_a_file(tmp_path):
    path, memory = tmp_path / "a", tmp_path / "memory.json"
    for length in range(1, 6):
        path.write_text("a" * length)
        RawFiles(memory).digest(path)
    assert list(json.loads(memory.read_text())) == [str(path)]


def test_without_a_memory_nothing_is_written(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    RawFiles().digest(tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"a.txt 9 0 1": "00"}', '{"a.txt": ["9 0 1"]}', '{"a.txt": null}']
)
def test_an_unreadable_memory_is_only_forgotten(tmp_path, text):
    path, memory = tmp_path / "a.txt", tmp_path / "memory.json"
    path.write_text("some text")
    memory.write_text(text)
    assert RawFiles(memory).digest(path) == identity.file_digest(path)
    assert list(json.loads(memory.read_text())) == [str(path)]
