"""A job that dies, is too slow or too large, and a full disk: finished work is never lost."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.searching import (
    SEARCH,
    assert_as_if_undisturbed,
    frozen_in_the_middle,
    target,
    unsearched,
)
from slurm.workplace import Workplace


@pytest.fixture(scope="module")
def frozen(cluster, undisturbed, tmp_path_factory) -> Iterator[tuple[Workplace, str]]:
    """A place whose search stands still in the middle, and the id of its job."""
    with unsearched(undisturbed, tmp_path_factory.mktemp("frozen"), cluster) as place:
        yield place, frozen_in_the_middle(place, cluster)


def test_a_job_does_not_use_the_network(frozen):
    place, _ = frozen
    (process,) = place.computing()
    environment = (process / "environ").read_bytes().split(b"\0")
    assert {b"HF_HUB_OFFLINE=1", b"HF_DATASETS_OFFLINE=1"} <= set(environment)


def test_a_cancelled_job_is_tried_again_and_goes_on_where_it_was(cluster, frozen, undisturbed):
    place, number = frozen
    cluster.call("scancel", number)
    cluster.wait("the end of the job", lambda: number not in cluster.queue(place.folder))
    assert len(place.score_keys()) < len(undisturbed.score_keys())
    place.forget_claims()
    assert place.wait() == 0, place.said()[-5000:]
    states = [job.state for job in cluster.jobs(place.folder)]
    assert states == ["CANCELLED", "COMPLETED"]
    assert_as_if_undisturbed(place, undisturbed)


def test_a_job_over_its_time_is_tried_again_with_more_time_and_memory(cluster, place, undisturbed):
    number = frozen_in_the_middle(place, cluster)
    (asked,) = cluster.jobs(place.folder)
    cluster.call("scontrol", "update", f"JobId={number}", "EndTime=now+1")
    # Slurm looks twice a minute.
    cluster.wait("the end of the job", lambda: number not in cluster.queue(place.folder))
    place.forget_claims()
    assert place.wait() == 0, place.said()[-5000:]
    first, second = cluster.jobs(place.folder)
    assert (first.state, second.state) == ("TIMEOUT", "COMPLETED")
    assert second.minutes > asked.minutes
    assert second.memory > asked.memory
    assert_as_if_undisturbed(place, undisturbed)


def test_a_job_over_its_memory_is_tried_again_with_more(cluster, place, undisturbed):
    def limit(site: dict[str, Any]) -> None:
        # Two Snakemakes fit into the first, torch beside them does not.
        site["set-resources"]["search_factors"] = {"mem_mb": "500 * attempt ** 3"}

    place.change_site(limit)
    assert place.run(target(place)) == 0, place.said()[-5000:]
    first, second = cluster.jobs(place.folder)
    assert (first.state, second.state) in {("FAILED", "COMPLETED"), ("OUT_OF_MEMORY", "COMPLETED")}
    assert (first.memory, second.memory) == (500, 4000)
    assert "exceeded memory limit" in cluster.log(first.node)
    assert_as_if_undisturbed(place, undisturbed)


def test_a_killed_snakemake_can_be_started_again_while_its_job_lives_on(
    cluster, place, undisturbed
):
    first = frozen_in_the_middle(place, cluster)
    place.end()
    place.start(target(place))
    cluster.wait("a second job", lambda: len(cluster.queue(place.folder)) == 2)
    cluster.wait("its waiting", lambda: list(place.store.glob(".work/search/*.lock.*")))
    place.signal(signal.SIGCONT)
    assert place.wait() == 0, place.said()[-5000:]
    assert first not in cluster.queue(place.folder)
    states = [job.state for job in cluster.jobs(place.folder)]
    assert states == ["COMPLETED", "COMPLETED"]
    assert_as_if_undisturbed(place, undisturbed)


@pytest.fixture
def small_disk(place) -> Iterator[Path]:
    """The store of a place, on a file system with room for a part of what the search writes."""
    original = place.store.with_name("kept")
    place.store.rename(original)
    place.store.mkdir()
    used = sum(-(-path.stat().st_size // 4096) for path in original.rglob("*") if path.is_file())
    size = f"size={4 * used + 48}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place.store])
    if mounted.returncode:
        pytest.skip("a full disk cannot be tried here: mounting a small one was refused")
    shutil.copytree(original, place.store, symlinks=True, dirs_exist_ok=True)
    yield place.store
    place.end()
    subprocess.run(["umount", "--lazy", place.store], check=True)


def test_a_full_disk_leaves_nothing_half_written(place, undisturbed, small_disk):
    assert place.run(target(place), "--retries", "0") == 1
    assert "no space left for" in place.said()
    assert "Traceback" not in place.said()
    assert not (place.store / place.key(SEARCH) / "manifest.json").exists()
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert place.run(target(place)) == 0, place.said()[-5000:]
    assert_as_if_undisturbed(place, undisturbed)
