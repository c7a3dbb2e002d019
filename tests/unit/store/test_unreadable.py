"""Tests that an unreadable file is not taken for a damaged one: refused in one sentence, nothing moved."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import command_line
import pytest
from command_line import STORE, call, finish, planned
from refusals import ERRORS, OTHER, longrope_as, open_folder, refused, require_root
from repository import ROOT

from longrope import reading
from longrope.errors import UserError, refusals_explained
from longrope.plan import nodes
from longrope.store import commit
from longrope.store.files import RawFiles
from longrope.store.score_memory import ScoreMemory


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working directory whose store has every node of a configuration, and its plan file."""
    monkeypatch.chdir(command_line.write_files(tmp_path / "work"))
    prepare()


def prepare() -> None:
    """Finish all nodes of the working directory's configuration, and write and pin its plan."""
    plan = planned()
    finish(*plan, git={"commit": "a" * 40, "dirty": False}, python="3", versions={})
    for name in ("plans/tiny.json", "pins/paper.json"):
        nodes.write_if_changed(plan, STORE / name)
    RawFiles(STORE / ".raw-files.json").digest(Path("own.txt"))


TABLE = str(ROOT / "config" / "hardware.yaml")


def everything() -> dict[str, int]:
    """Return all files of the store with their inodes; claims come and go."""
    passing = (".work", ".raw-files.json")
    return {
        str(path): path.lstat().st_ino for path in STORE.rglob("*") if path.parts[1] not in passing
    }


def node() -> Path:
    """Return the directory of the search."""
    (search,) = (STORE / "search").iterdir()
    return search


def tokens_of_search() -> Path:
    """Return the directory of the node that the search reads."""
    plan = json.loads((STORE / "plans" / "tiny.json").read_text())
    return STORE / plan["nodes"][str(node().relative_to(STORE))]["inputs"]["tokens"]


def runs(path: Path) -> tuple[str, ...]:
    """Set a node aside; return the call of the job that makes it again."""
    commit.to_trash(STORE, path)
    return ("run", str(path.relative_to(STORE)), "--plan", str(STORE / "plans" / "tiny.json"))


@contextlib.contextmanager
def stopped(capsys: pytest.CaptureFixture[str], path: Path) -> Iterator[None]:
    """Expect one sentence that names a path, and a store that is as it was."""
    before = everything()
    capsys.readouterr()
    yield
    sentence = capsys.readouterr().err
    assert sentence.startswith("longrope: error: "), sentence
    assert sentence.count("\n") == 1
    assert str(path) in sentence
    assert "does not mean that it is damaged" in sentence
    assert everything() == before


VERBS = [
    ("verify", "config.yaml"),
    ("verify", "config.yaml", "--repair"),
    ("plan", "config.yaml", "--hardware-table", TABLE),
    ("gc", "--delete"),
    ("gc", "config.yaml", "--delete"),
]


# Injected errors ----------------------------------------------------------------------------------


PLACES = [
    ("manifest.json", "open"),
    ("manifest.json", "read"),
    ("result.bin", "stat"),
    ("result.bin", "open"),
    ("result.bin", "read"),
    ("DONE", "stat"),
    ("DONE", "read"),
]


@pytest.mark.parametrize(("file", "how"), PLACES)
def test_a_node_of_which_a_file_cannot_be_read_is_not_called_damaged(tmp_path, file, how):
    made = commit.run(tmp_path, "a/b", {}, lambda work: (work / "result.bin").touch(), dict)
    for error in ERRORS:
        with refused(made / file, error, how), pytest.raises(OSError, match=file):
            commit.problem(made)
        with refused(made / file, error, how), pytest.raises(OSError, match=file):
            commit.require_sound(tmp_path, "a/b")
    assert commit.require_sound(tmp_path, "a/b") == made


@pytest.mark.parametrize(("file", "how"), PLACES)
def test_verify_moves_no_node_of_which_it_cannot_read_a_file(capsys, file, how):
    path = node() / file
    for repair in ((), ("--repair",)):
        with stopped(capsys, path), refused(path, "EIO", how):
            assert call("verify", "config.yaml", *repair) == 1


def test_a_job_moves_no_input_that_it_cannot_read(capsys):
    folder = tokens_of_search()
    job = runs(node())
    for file, how in [*PLACES, ("", "stat")]:
        with stopped(capsys, folder / file), refused(folder / file, "ESTALE", how):
            assert call(*job) == 1


@pytest.mark.parametrize("error", ERRORS[:1])
def test_a_job_does_not_take_a_text_that_it_cannot_read_for_a_changed_one(capsys, error):
    job = runs(tokens_of_search())
    (STORE / ".raw-files.json").unlink()
    path = Path("own.txt")
    with stopped(capsys, path), refused(path, error):
        assert call(*job) == 1


@pytest.mark.parametrize("error", ERRORS[:1])
def test_a_job_computes_no_node_anew_whose_manifest_it_cannot_read(error):
    path = node() / "manifest.json"
    key = str(node().relative_to(STORE))
    before = everything()
    with (
        refused(path, error),
        pytest.raises(UserError, match=r"manifest\.json could not"),
        refusals_explained(),
    ):
        commit.run(STORE, key, {}, lambda work: pytest.fail("computed"), dict)
    assert everything() == before
    assert not list((STORE / ".work" / key).parent.glob("*"))


@pytest.mark.parametrize("config", [(), ("config.yaml",)])
def test_gc_deletes_nothing_while_it_cannot_read_what_is_to_stay(capsys, config):
    Path("own.txt").write_text("two one two")
    finish(*planned())
    files = {"pins/paper.json": "open", "plans": "listdir", "pins": "listdir"}
    files |= {".raw-files.json": "read"} if config else {"plans/tiny.json": "read"}
    for file, how in files.items():
        with stopped(capsys, STORE / file), refused(STORE / file, "EMFILE", how):
            assert call("gc", *config, "--delete") == 1


@pytest.mark.parametrize("error", ERRORS[-1:])
def test_gc_takes_no_claim_that_it_cannot_read_for_a_released_one(capsys, error):
    lock = STORE / ".work" / "search" / f"{node().name}.lock"
    lock.mkdir(parents=True)
    (lock / ("0" * 32)).touch()
    with stopped(capsys, lock / ("0" * 32)), refused(lock / ("0" * 32), error, "stat"):
        assert call("gc", "--delete") == 1


def test_plan_calls_no_node_unfinished_whose_files_it_cannot_read(capsys):
    for file, how in (("manifest.json", "open"), ("manifest.json", "read"), ("DONE", "stat")):
        with stopped(capsys, node() / file), refused(node() / file, "EIO", how):
            assert call("plan", "config.yaml", "--hardware-table", TABLE) == 1


@pytest.mark.parametrize("error", ERRORS)
def test_a_memory_of_scores_that_cannot_be_read_is_not_forgotten(tmp_path, error):
    context = {"model": "m"}
    memory = ScoreMemory(tmp_path, context)
    memory.put({"a": 1}, 2.5)
    (path,) = tmp_path.rglob("*.jsonl")
    with refused(path, error, "read"), pytest.raises(OSError, match=path.name):
        ScoreMemory(tmp_path, context)
    with refused(path.parent, error, "listdir"), pytest.raises(OSError, match=path.parent.name):
        ScoreMemory(tmp_path, context)


@pytest.mark.parametrize("error", ERRORS)
def test_a_memory_of_raw_files_that_cannot_be_read_is_not_replaced(error):
    memory = STORE / ".raw-files.json"
    text = memory.read_text()
    with refused(memory, error), pytest.raises(OSError, match="raw-files"):
        RawFiles(memory).digest(Path("own.txt"))
    assert memory.read_text() == text


@pytest.mark.parametrize("error", ERRORS)
def test_a_checkpoint_that_cannot_be_read_is_not_deleted(tmp_path, error):
    from longrope.training.trainer import last_checkpoint

    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = tmp_path / f"checkpoint-{step}" / "trainer_state.json"
        state.write_text(json.dumps({"global_step": step}))
    with refused(state, error), pytest.raises(OSError, match="trainer_state"):
        last_checkpoint(tmp_path)
    assert last_checkpoint(tmp_path) == str(state.parent)
    state.write_text("{")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")
    assert not state.exists()


@pytest.mark.parametrize("error", ERRORS)
def test_a_table_does_not_leave_out_what_it_cannot_read(capsys, error):
    from longrope.reports.lineage import made_by
    from longrope.reports.results import read_json

    path = node() / "manifest.json"
    for how in ("open", "stat"):
        with refused(path, error, how), pytest.raises((UserError, OSError), match="manifest"):
            made_by(node())
    with refused(path, error), pytest.raises(UserError, match="does not mean that it is damaged"):
        read_json(path)


def test_a_script_of_a_table_ends_in_one_sentence(tmp_path):
    circle = tmp_path / "plans" / "tiny.json"
    circle.parent.mkdir()
    circle.symlink_to(circle)  # too many levels of links, also for root
    script = ROOT / "workflow" / "scripts" / "tabulate.py"
    command = [sys.executable, str(script), "--product", "cost", "--plan", str(circle)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("longrope: error: "), done.stderr
    assert "does not mean that it is damaged" in done.stderr
    assert done.stderr.count("\n") == 1


# Absent and refused files -------------------------------------------------------------------------


def test_only_a_name_that_leads_nowhere_is_absent(tmp_path):
    (tmp_path / "file").write_text("a")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert [
        reading.is_file(tmp_path / name) for name in ("file", "gone", "none", "file/inner")
    ] == [
        True,
        False,
        False,
        False,
    ]
    with pytest.raises(OSError, match="symbolic links"):
        reading.is_file(tmp_path / "circle")


def test_a_missing_file_and_a_lost_connection_are_no_refusals():
    for error in (FileNotFoundError(2, "none", "a"), ConnectionResetError(104, "reset"), OSError()):
        with pytest.raises(type(error)), refusals_explained():
            raise error


# Another user -------------------------------------------------------------------------------------


@pytest.fixture
def shared(monkeypatch):
    """The same working directory where another user reaches it; that user may write there."""
    require_root()
    with open_folder() as folder:
        monkeypatch.chdir(command_line.write_files(folder / "work"))
        prepare()
        for path in [folder / "work", *(folder / "work").rglob("*")]:
            os.chown(path, OTHER, OTHER)
        yield folder / "work"


def private(path: Path) -> Path:
    """Give a file or folder to root alone."""
    os.chown(path, 0, 0)
    path.chmod(0o700 if path.is_dir() else 0o600)
    return path


PRIVATE = {
    "manifest.json": lambda: node() / "manifest.json",
    "a file of the node": lambda: node() / "result.bin",
    "the node": node,
    "the folder of its kind": lambda: node().parent,
}


READ = [
    *((verb, what) for verb in VERBS[:2] for what in PRIVATE),
    *((VERBS[2], what) for what in PRIVATE if what != "a file of the node"),
    *((verb, "the folder of its kind") for verb in VERBS[3:]),
]
"""verbs, and what each of them reads"""


@pytest.mark.parametrize(("verb", "what"), READ)
def test_what_another_user_may_not_read_stays(shared, verb, what):
    path = private(PRIVATE[what]())
    before = everything()
    done = longrope_as(OTHER, *verb)
    assert done.returncode == 1
    assert done.stderr.startswith("longrope: error: "), done.stderr
    assert str(path) in done.stderr
    assert done.stderr.count("\n") == 1
    assert everything() == before


@pytest.mark.parametrize("what", ["manifest.json", "a file", "the node"])
def test_a_job_of_another_user_moves_no_input_that_it_may_not_read(shared, what):
    tokens = tokens_of_search()
    job = runs(node())
    names = {"manifest.json": "manifest.json", "a file": "result.bin", "the node": ""}
    path = private(tokens / names[what])
    before = everything()
    done = longrope_as(OTHER, *job)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Permission denied" in done.stderr
    assert everything() == before


def test_gc_of_another_user_deletes_nothing_while_the_pins_are_hidden(shared):
    Path("own.txt").write_text("two one two")
    private(STORE / "pins")
    before = everything()
    done = longrope_as(OTHER, "gc", "config.yaml", "--delete")
    assert done.returncode == 1
    assert "results/pins" in done.stderr
    assert everything() == before


def test_a_corpus_does_not_lose_a_folder_that_may_not_be_listed(shared):
    folder = Path("texts/inner")
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    Path("texts/b.txt").write_text("two")
    private(folder)
    command_line.edit("files: {train: [own.txt]", "files: {train: [texts]")
    for entry in ("texts", "texts/**/*.txt", "texts/*/*.txt"):
        command_line.edit("train: [", f"train: [{entry!r}, ")
        done = longrope_as(OTHER, "verify", "config.yaml")
        assert done.returncode == 1
        assert "texts/inner" in done.stderr, done.stderr
    shutil.rmtree("texts")
