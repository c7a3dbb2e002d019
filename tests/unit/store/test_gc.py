"""`gc` and `pin`: what nothing needs is deleted, and nothing else ever is."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import command_line
import pytest
from command_line import STORE, call, edit, finish, planned

from longrope.plan import nodes
from longrope.plan.nodes import Plan
from longrope.store import commit, gc
from longrope.store.identity import digest
from longrope.store.score_memory import ScoreMemory


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working directory whose store has every node of a configuration, and its plan files."""
    monkeypatch.chdir(command_line.write_files(tmp_path / "work"))
    finish(*planned())
    as_parsed(planned())


def as_parsed(plan: Plan) -> None:
    """Write the plan files that the Snakefile writes."""
    for name in (plan.digest[:12], plan.experiment):
        nodes.write_if_changed(plan, STORE / "plans" / f"{name}.json")


def outdated() -> tuple[Plan, Plan]:
    """Change a text and make its nodes again; return the plans before and after."""
    before = planned()
    Path("own.txt").write_text("two one two")
    finish(*planned())
    as_parsed(planned())
    return before, planned()


def there() -> set[str]:
    """Return the nodes in the store."""
    return {
        str(path.relative_to(STORE))
        for kind in nodes.KINDS
        for path in (STORE / kind).glob("*")
        if path.is_dir()
    }


def everything() -> set[str]:
    """Return all paths in the store."""
    return {str(path) for path in STORE.rglob("*") if path.name != ".raw-files.json"}


def deleted(*arguments: str) -> set[str]:
    """Run gc with deletion; return the nodes that it removed."""
    before = there()
    assert call("gc", *arguments, "--delete") == 0
    return before - there()


def old(path: Path) -> None:
    """Give a file the time of the day before yesterday."""
    os.utime(path, (time.time() - 2 * gc.DAY,) * 2)


def hold(key: str, age: float = 0.0) -> Path:
    """Claim a node like a job whose last sign of life was some seconds ago."""
    lock = STORE / ".work" / f"{key}.lock"
    lock.mkdir(parents=True)
    (lock / ("0" * 32)).touch()
    os.utime(lock / ("0" * 32), (time.time() - age,) * 2)
    return lock


# Dead paths ---------------------------------------------------------------------------------------


def test_only_nodes_that_no_last_plan_has_are_deleted():
    before, after = outdated()
    assert deleted() == before.by_key.keys() - after.by_key.keys() != set()
    assert there() == after.by_key.keys()
    assert call("verify", "config.yaml") == 0


def test_without_delete_the_dead_are_listed_with_their_sizes_and_stay(capsys):
    before, after = outdated()
    paths = everything()
    assert call("gc") == 0
    assert everything() == paths
    *listed, total = capsys.readouterr().out.splitlines()
    dead = sorted(before.by_key.keys() - after.by_key.keys())
    sizes = [sum(p.stat().st_size for p in (STORE / key).iterdir()) for key in dead]
    expected = [
        f"{size / 1000:6.1f} kB  {STORE / key}" for key, size in zip(dead, sizes, strict=True)
    ]
    assert [line for line in listed if not line.startswith(("kept", "NOT kept"))] == expected
    assert total == (
        f"dead: {sum(sizes) / 1000:.1f} kB in 2 places; nothing was deleted, --delete does it"
    )


def test_a_second_run_finds_nothing(capsys):
    outdated()
    assert deleted()
    paths = everything()
    assert deleted() == set()
    assert everything() == paths
    assert "deleted 0 B in 0 places" in capsys.readouterr().out


def test_the_last_plans_of_all_experiments_stay():
    before, _ = outdated()
    edit("tiny\nmodel", "other\nmodel")
    Path("own.txt").write_text("one two one")
    as_parsed(planned())
    assert there() > before.by_key.keys()
    assert deleted() == set()


def test_a_configuration_named_keeps_its_nodes_only_and_says_which_plans_it_does_not(capsys):
    before, after = outdated()
    Path("own.txt").write_text("one two one")
    shutil.copy(STORE / "plans" / "tiny.json", STORE / "plans" / "other.json")
    assert deleted("config.yaml") == after.by_key.keys() - before.by_key.keys()
    assert "NOT kept: the last plan of other, results/plans/other.json" in capsys.readouterr().out


def test_a_pinned_plan_keeps_its_nodes(capsys):
    before = planned()
    assert call("pin", "config.yaml", "paper") == 0
    assert capsys.readouterr().out == (
        "results/pins/paper.json: 4 of 4 nodes are done; gc keeps them all\n"
    )
    outdated()
    assert deleted() == deleted("config.yaml") == set()
    assert there() > before.by_key.keys()
    Path("results/pins/paper.json").unlink()
    assert deleted()


def test_a_half_finished_node_is_kept_as_long_as_a_plan_has_it():
    before, after = outdated()
    (dead,) = (n for n in before if n.kind == "search")
    (alive,) = (n for n in after if n.kind == "search")
    for node in (dead, alive):
        (STORE / ".work" / node.key).mkdir(parents=True)
    assert deleted()
    assert not (STORE / ".work" / dead.key).exists()
    assert (STORE / ".work" / alive.key).is_dir()


def test_what_the_store_did_not_name_is_never_touched():
    outdated()
    foreign = [
        "search/notes/a.txt",
        "search/notes.txt",
        "tables/tiny/perplexity.csv",
        "plans/notes.md",
    ]
    foreign += [".scores/notes/a.jsonl", "mine/tiny-0123456789ab/a.bin", ".work/search/notes/a"]
    for name in foreign:
        (STORE / name).parent.mkdir(parents=True, exist_ok=True)
        (STORE / name).write_text("mine")
    (STORE / "search" / "link-0123456789ab").symlink_to(Path.cwd() / "model")
    assert deleted()
    assert [name for name in foreign if not (STORE / name).is_file()] == []
    assert Path("model/config.json").is_file()
    assert (STORE / "search" / "link-0123456789ab").is_symlink()


def test_the_trash_is_emptied_and_links_in_it_are_not_followed():
    commit.to_trash(STORE, STORE / next(iter(planned())).key)
    (STORE / ".trash" / "link").symlink_to(Path.cwd() / "model")
    deleted()
    assert list((STORE / ".trash").iterdir()) == []
    assert Path("model/config.json").is_file()


def test_plan_files_of_jobs_are_deleted_a_day_after_the_last_parse():
    before, after = outdated()
    files = {p.digest[:12]: STORE / "plans" / f"{p.digest[:12]}.json" for p in (before, after)}
    deleted()
    assert all(path.is_file() for path in files.values())
    for path in (STORE / "plans").glob("*.json"):
        old(path)
    deleted()
    assert [path.is_file() for path in files.values()] == [False, True]
    assert (STORE / "plans" / "tiny.json").is_file()


# Score memories -----------------------------------------------------------------------------------


def memory(context: dict[str, str], *, silent: bool = False) -> Path:
    """Write a score memory with its context; return its folder."""
    ScoreMemory(STORE / ".scores", context).put({"window": 0}, 1.0)
    folder = STORE / ".scores" / digest(context)[:16]
    if silent:
        (folder / "context.json").unlink(missing_ok=True)
    else:
        (folder / "context.json").write_text(json.dumps(context))
    return folder


def test_a_score_memory_is_kept_as_long_as_its_model_and_its_tokens_are(capsys):
    before, after = outdated()
    model = digest(dict(after.of("search")[0].raw["model"].files))
    past, present = (plan.of("search")[0].inputs["tokens"].digest for plan in (before, after))
    common = {"model": model, "dtype": "float32", "code": "0" * 16}
    alive = memory(common | {"tokens": present})
    other_tokens = memory(common | {"tokens": past})
    other_model = memory(common | {"tokens": present, "model": "1" * 64})
    silent = memory(common | {"tokens": "2" * 64}, silent=True)
    assert deleted()
    folders = [alive, silent, other_tokens, other_model]
    assert [folder.is_dir() for folder in folders] == [True, True, False, False]
    assert "kept: 1 score memories that do not say what they are of" in capsys.readouterr().out


# Curves -------------------------------------------------------------------------------------------


def curves(name: str) -> Path:
    """Write a folder of curves for TensorBoard."""
    folder = STORE / ".tensorboard" / name
    folder.mkdir(parents=True)
    (folder / "events.out.tfevents.0").write_bytes(bytes(1500))
    return folder


def test_curves_are_kept_as_long_as_a_plan_has_their_node_or_a_job_works_on_it(capsys):
    before, after = outdated()
    past, present = (plan.of("search")[0].key for plan in (before, after))
    job = "search/tiny-64-0123456789ab"
    hold(job)
    alive, dead, held = (curves(key.rpartition("/")[2]) for key in (present, past, job))
    others = curves("mine")
    assert call("gc") == 0
    assert f"   1.5 kB  {dead}\n" in capsys.readouterr().out
    assert dead.is_dir()
    assert deleted()
    assert not dead.exists()
    assert alive.is_dir() and held.is_dir() and others.is_dir()
    capsys.readouterr()
    assert call("gc") == 0
    assert ".tensorboard" not in capsys.readouterr().out


# Running jobs -------------------------------------------------------------------------------------


def test_what_a_running_job_writes_and_reads_stays():
    before, _ = outdated()
    (dead,) = (node for node in before if node.kind == "search")
    hold(dead.key)
    (STORE / ".work" / dead.key).mkdir()
    # of neither plan: jobs of it may be waiting
    (STORE / "plans" / "0123456789ab.json").write_text('{"experiment": "gone", "nodes": {}}')
    for path in (STORE / "plans").glob("*.json"):
        old(path)
    plans = set((STORE / "plans").iterdir())
    assert deleted() == set()
    assert (STORE / ".work" / dead.key).is_dir()
    assert (STORE / dead.inputs["tokens"].key / "DONE").is_file()
    assert set((STORE / "plans").iterdir()) == plans


def test_a_running_job_without_a_plan_file_keeps_at_least_its_node():
    before, after = outdated()
    (dead,) = (node for node in before if node.kind == "search")
    hold(dead.key)
    (STORE / "plans" / f"{before.digest[:12]}.json").unlink()
    assert deleted() == before.by_key.keys() - after.by_key.keys() - {dead.key}


def test_a_claim_that_is_released_meanwhile_is_no_sign_of_life():
    lock = hold("search/tiny-16-0123456789ab")
    assert gc._is_fresh(lock, time.time())
    shutil.rmtree(lock)
    assert not gc._is_fresh(lock, time.time())


def test_a_claim_without_a_sign_of_life_keeps_nothing():
    before, after = outdated()
    (dead,) = (node for node in before if node.kind == "search")
    lock = hold(dead.key, age=6 * commit.HEARTBEAT)
    waiting = lock.with_name(f"{lock.name}.{'1' * 32}")
    shutil.copytree(lock, waiting)
    assert deleted() == before.by_key.keys() - after.by_key.keys()
    assert not lock.exists()
    assert not waiting.exists()


def test_a_claim_made_meanwhile_is_waited_for(monkeypatch):
    outdated()
    taken = []
    claimed = commit.claimed
    monkeypatch.setattr(gc.commit, "claimed", lambda lock: taken.append(lock) or claimed(lock))
    dead = deleted()
    assert {str(path.relative_to(STORE / ".work")) for path in taken} == {f"{k}.lock" for k in dead}


KILLED = """
import os, shutil, sys
from longrope.cli.main import main
from longrope.store import gc
steps = int(sys.argv[1])
def counted(call):
    def step(*arguments, **options):
        global steps
        if steps == 0:
            os._exit(9)
        steps -= 1
        return call(*arguments, **options)
    return step
gc.commit.to_trash = counted(gc.commit.to_trash)
os.unlink, os.rmdir = counted(os.unlink), counted(os.rmdir)
sys.exit(main(["gc", "--delete"]))
"""


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 7])
def test_a_kill_at_any_step_leaves_whole_nodes_and_a_next_run_that_ends_the_work(steps):
    _, after = outdated()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(steps)], capture_output=True)
    assert killed.returncode == 9, killed.stderr
    assert {key for key in there() if commit.problem(STORE / key)} == set()
    assert there() >= after.by_key.keys()
    for token in (STORE / ".work").rglob("*.lock/*"):
        os.utime(token, (0, 0))  # the killed process beats no more
    deleted()
    assert there() == after.by_key.keys()
    assert not list((STORE / ".trash").iterdir())


# Refusals -----------------------------------------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one sentence of a refusal, which must leave the store as it is."""
    before = everything()
    assert call(*arguments) == 1
    assert everything() == before
    sentence = capsys.readouterr().err
    assert sentence.startswith("longrope: error: ")
    assert sentence.count("\n") == 1
    return sentence


def test_without_anything_to_keep_nothing_is_deleted(capsys):
    shutil.rmtree(STORE / "plans")
    sentence = refusal(capsys, "gc", "--delete")
    assert "results has no plan and no pin, so that nothing would be kept; name" in sentence


@pytest.mark.parametrize("folder", ["plans", "pins"])
@pytest.mark.parametrize("text", ["", "{", "[]", '{"nodes": {}}'])
def test_a_plan_that_cannot_be_read_deletes_nothing(capsys, folder, text):
    outdated()
    (STORE / folder).mkdir(exist_ok=True)
    (STORE / folder / "broken.json").write_text(text)
    sentence = refusal(capsys, "gc", "--delete")
    assert f"{folder}/broken.json is missing or not a plan" in sentence


def test_a_configuration_with_a_mistake_deletes_nothing(capsys):
    outdated()
    Path("wrong.yaml").write_text("experiment: 3")
    assert "wrong.yaml" in refusal(capsys, "gc", "config.yaml", "wrong.yaml", "--delete")


def not_permitted(path: Path) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_a_refusal_of_the_system_ends_in_a_sentence(capsys, monkeypatch):
    outdated()
    monkeypatch.setattr(shutil, "rmtree", not_permitted)
    assert call("gc", "--delete") == 1
    assert "the system does not let gc delete: [Errno 13]" in capsys.readouterr().err


def pinned(change: Callable[[], object]) -> Path:
    """Pin the plan, then change it; return the file of the pin."""
    assert call("pin", "config.yaml", "paper") == 0
    change()
    return STORE / "pins" / "paper.json"


def test_a_pin_holds_the_plan_and_a_name_is_not_given_twice(capsys):
    path = pinned(lambda: Path("own.txt").write_text("two"))
    text = path.read_text()
    sentence = refusal(capsys, "pin", "config.yaml", "paper")
    assert "paper.json pins another plan; choose another name, or give --replace" in sentence
    assert call("pin", "config.yaml", "paper", "--replace") == 0
    assert path.read_text() == planned().to_json() != text
    assert call("pin", "config.yaml", "paper") == 0
    assert "2 of 4 nodes are done" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", "../plans/tiny", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_file_name_is_refused(capsys, name):
    assert "the name of a pin has letters, digits" in refusal(capsys, "pin", "config.yaml", name)
