"""Tests of concurrent and killed jobs: one computes, the other waits, a dead one's work is resumed."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from repository import ROOT

from longrope.errors import UserError
from longrope.store import commit

BEAT = 0.05
"""Seconds between signs of life here; a lock is stale after five."""

KEY = "finetune/tiny-0123456789ab"


def age(lock: Path, seconds: float) -> None:
    """Make the owner of a lock look as if it had last given a sign of life long ago."""
    for token in lock.iterdir():
        os.utime(token, (time.time() - seconds,) * 2)


def left_behind(lock: Path, seconds: float) -> Path:
    """Return the token of a lock whose owner was killed some seconds ago."""
    lock.mkdir(parents=True)
    token = lock / "token-of-a-dead-process"
    token.touch()
    age(lock, seconds)
    return token


def others(lock: Path) -> list[Path]:
    """Return the lock and the leftovers of attempts to take it."""
    return [path for path in lock.parent.iterdir() if path.name.startswith(lock.name)]


# The lock -----------------------------------------------------------------------------------------


def test_a_lock_is_there_while_held_and_gone_after(tmp_path):
    lock = tmp_path / "deep" / "lock"
    with commit.claimed(lock, BEAT) as token:
        assert [path.name for path in lock.iterdir()] == [token.name]
    assert others(lock) == []


def test_a_lock_is_released_after_an_exception(tmp_path):
    lock = tmp_path / "lock"
    with pytest.raises(KeyboardInterrupt), commit.claimed(lock, BEAT):
        raise KeyboardInterrupt
    with commit.claimed(lock, BEAT):
        pass
    assert others(lock) == []


def test_a_holder_gives_signs_of_life(tmp_path):
    lock = tmp_path / "lock"
    with commit.claimed(lock, BEAT) as token:
        age(lock, 1000)
        deadline = time.monotonic() + 5
        while time.time() - token.stat().st_mtime > 500:
            assert time.monotonic() < deadline, "no sign of life"
            time.sleep(BEAT)


def test_a_stale_lock_is_taken_over_and_a_fresh_one_is_not(tmp_path, capsys):
    lock = tmp_path / "lock"
    left_behind(lock, seconds=0.4)
    with commit.claimed(lock, heartbeat=0.2):
        pass
    assert "held by another process" in capsys.readouterr().out
    left_behind(lock, seconds=1000)
    with commit.claimed(lock, heartbeat=15):
        pass
    assert others(lock) == []


def test_a_lock_emptied_by_a_kill_during_its_release_is_taken(tmp_path):
    lock = tmp_path / "lock"
    lock.mkdir()
    with commit.claimed(lock, heartbeat=15):
        pass
    assert others(lock) == []


def test_an_owner_that_lost_its_lock_touches_nothing_of_the_new_one(tmp_path):
    lock = tmp_path / "lock"
    with commit.claimed(lock, heartbeat=15) as old:
        age(lock, 1000)
        with commit.claimed(lock, heartbeat=15) as new:
            assert not old.exists()
            age(lock, 30)
            before = new.stat().st_mtime_ns
            stop = threading.Event()
            beat = threading.Thread(target=commit._beat, args=(old, stop, 0.01))
            beat.start()
            time.sleep(0.1)
            stop.set()
            beat.join()
            assert new.stat().st_mtime_ns == before, "the old owner beat the new one's heart"
            assert [path.name for path in lock.iterdir()] == [new.name]
    assert others(lock) == []


def test_the_old_owners_release_leaves_the_new_owners_lock(tmp_path):
    lock = tmp_path / "lock"
    old = commit.claimed(lock, heartbeat=15)
    old.__enter__()
    age(lock, 1000)
    with commit.claimed(lock, heartbeat=15) as new:
        old.__exit__(None, None, None)
        assert new.exists()


def test_waiters_for_a_stale_lock_hold_it_one_at_a_time(tmp_path):
    # each round: eight waiters find the same dead owner at once
    inside: list[int] = []
    most = 0

    def hold(lock: Path, number: int) -> None:
        nonlocal most
        with commit.claimed(lock, heartbeat=0.4):
            inside.append(number)
            most = max(most, len(inside))
            time.sleep(0.001)
            inside.remove(number)

    for turn in range(5):
        lock = tmp_path / f"lock-{turn}"
        left_behind(lock, seconds=1000)
        threads = [threading.Thread(target=hold, args=(lock, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert others(lock) == []
    assert most == 1


def test_a_waiter_that_gives_up_leaves_nothing(tmp_path, monkeypatch):
    lock = tmp_path / "lock"
    token = left_behind(lock, seconds=0)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commit.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), commit.claimed(lock, heartbeat=15):
        pass
    assert others(lock) == [lock]
    assert token.exists()


# Jobs ---------------------------------------------------------------------------------------------

JOB = """
import os, sys, time
from pathlib import Path
from longrope.store import commit

store, mode = Path(sys.argv[1]), sys.argv[2]

def compute(work):
    with (store / "computed").open("a") as stream:
        stream.write(f"{mode}\\n")
    state = work / "_state"
    begin = int(state.read_text()) if state.exists() else 0
    for step in range(begin, 4):
        with (work / "steps.txt").open("a") as stream:
            stream.write(f"{step}\\n")
        state.write_text(str(step + 1))
        if mode == "hang" and step == 1:
            print("half way", flush=True)
            time.sleep(60)
        time.sleep(0.05)

commit.run(store, sys.argv[3], {"kind": "finetune"}, compute, dict)
"""


def job(store: Path, mode: str) -> subprocess.Popen[str]:
    """Start a job of four steps; the mode `hang` stops after two until it is killed."""
    command = [sys.executable, "-c", JOB, str(store), mode, KEY]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def output(process: subprocess.Popen[str]) -> str:
    """Return the output of a job, after its end."""
    said, _ = process.communicate(timeout=60)
    return said


def killed_half_way(store: Path) -> None:
    process = job(store, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "half way\n"
    process.send_signal(signal.SIGKILL)
    output(process)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_job_leaves_no_result_and_is_resumed_in_its_work_directory(tmp_path):
    killed_half_way(tmp_path)
    assert not (tmp_path / KEY).exists()
    work = tmp_path / ".work" / KEY
    assert (work / "_state").read_text() == "2"
    age(work.with_name(f"{work.name}.lock"), 1000)
    resumed = job(tmp_path, "resume")
    output(resumed)
    assert resumed.returncode == 0
    final = tmp_path / KEY
    assert (final / "steps.txt").read_text() == "0\n1\n2\n3\n", "no step twice, none left out"
    assert commit.problem(final) is None
    assert not list(final.glob("_*"))
    assert not work.exists()


def test_a_job_waits_for_a_killed_one_until_it_is_surely_dead(tmp_path):
    killed_half_way(tmp_path)
    waiting = job(tmp_path, "wait")
    assert waiting.stdout is not None
    assert "held by another process" in waiting.stdout.readline()
    assert (tmp_path / "computed").read_text() == "hang\n"
    work = tmp_path / ".work" / KEY
    age(work.with_name(f"{work.name}.lock"), 1000)
    output(waiting)
    assert waiting.returncode == 0
    assert commit.problem(tmp_path / KEY) is None


def test_two_jobs_at_once_compute_once(tmp_path):
    jobs = [job(tmp_path, "work") for _ in range(2)]
    said = "".join(output(process) for process in jobs)
    assert [process.returncode for process in jobs] == [0, 0]
    assert (tmp_path / "computed").read_text() == "work\n"
    assert "verified, not computed again" in said
    assert (tmp_path / KEY / "steps.txt").read_text() == "0\n1\n2\n3\n"


# Commits that were interrupted --------------------------------------------------------------------


def compute(work: Path) -> None:
    """Write a result and, as a stage does, the state it would resume from."""
    (work / "_state").write_text("done")
    (work / "result").write_text("42")


def never(work: Path) -> None:
    """Fail the test: nothing may be computed."""
    raise AssertionError(f"computed {work}")


def test_a_kill_between_manifest_and_rename_costs_no_computation(tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(commit, "_commit", killed)
        commit.run(tmp_path, KEY, {}, compute, dict)
    assert not (tmp_path / KEY).exists()
    final = commit.run(tmp_path, KEY, {}, never, dict)
    assert commit.problem(final) is None
    assert sorted(path.name for path in final.iterdir()) == ["DONE", "manifest.json", "result"]


def test_resume_state_outlives_a_kill_until_the_manifest_stands(tmp_path):
    def killed() -> dict[str, object]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        commit.run(tmp_path, KEY, {}, compute, killed)
    assert (tmp_path / ".work" / KEY / "_state").read_text() == "done"


def test_a_manifest_left_in_the_work_directory_is_not_taken_for_a_result(tmp_path):
    work = tmp_path / ".work" / KEY
    work.mkdir(parents=True)
    (work / "manifest.json").write_text('{"files": {"result": {"size": 1, "sha256": ""}}}')
    final = commit.run(tmp_path, KEY, {}, compute, dict)
    assert commit.problem(final) is None
    assert "manifest.json" not in (final / "manifest.json").read_text()


def test_a_job_whose_lock_was_taken_over_commits_nothing(tmp_path):
    lock = tmp_path / ".work" / f"{KEY}.lock"

    def robbed(work: Path) -> None:
        (work / "result").write_text("late")
        for token in lock.iterdir():
            token.unlink()

    with pytest.raises(UserError, match=f"another process took {KEY} over"):
        commit.run(tmp_path, KEY, {}, robbed, dict)
    assert not (tmp_path / KEY).exists()
