"""The batch script of docs/cluster.md: a search by the workers of a Dask scheduler, on two nodes."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from slurm.cluster import Cluster
from slurm.searching import SEARCH, assert_as_if_undisturbed, target, unsearched
from slurm.workplace import ROOT, Workplace

# What the small cluster has; on the command line of sbatch it overrules what the script says.
SMALL = ("--nodes=2", "--ntasks-per-node=1", "--mem=8G", "--account=lab")
# Every worker of Dask's loads this: it tells who scored a unit.
WITNESS = """
import os
from distributed import WorkerPlugin

class Witness(WorkerPlugin):
    def transition(self, key, start, finish, **_):
        if finish == "memory" and key.startswith("_score"):
            with open({path!r}, "a") as file:
                file.write(f"{{os.environ['SLURMD_NODENAME']}} {{os.getpid()}}\\n")

async def dask_setup(worker):
    await worker.plugin_add(Witness())
"""
# As a scheduler that was killed leaves it behind: nobody listens there.
LEFT_BEHIND = {"type": "Scheduler", "id": "killed", "address": "tcp://127.0.0.1:9", "workers": {}}
# The new scheduler loads this: workers have the time to take that file, if the script leaves it there.
DELAY = "import time\ntime.sleep(5)\n"


def documented(place: Workplace) -> str:
    """Return the script with the node of a place."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    (script,) = re.findall(r"^```\n(#!/bin/bash\n.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return script.replace("search/NODE", place.key(SEARCH))


def submitted(place: Workplace, cluster: Cluster) -> str:
    """Submit the script beside leftovers of an earlier run; return the job's id."""
    (place.folder / "search.sh").write_text(documented(place))
    place.plan("plan.json")
    witness, delay = place.folder / "witness.py", place.folder / "delay.py"
    witness.write_text(WITNESS.format(path=str(place.folder / "scored.txt")))
    delay.write_text(DELAY)
    loaded = {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": str(witness),
        "DASK_DISTRIBUTED__SCHEDULER__PRELOAD": str(delay),
    }
    done = subprocess.run(
        ["sbatch", "--parsable", "--hold", *SMALL, "search.sh"],
        cwd=place.folder,
        env=place.environment | loaded,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    number = done.stdout.strip()
    (place.folder / f"dask-{number}.json").write_text(json.dumps(LEFT_BEHIND))
    cluster.call("scontrol", "release", number)
    return number


def wait_for_end(place: Workplace, cluster: Cluster, number: str) -> None:
    """Wait until a job is over, and check that it ended well."""
    cluster.wait("the end", lambda: number not in cluster.queue(place.folder), 200)
    description = cluster.call("scontrol", "show", "job", number)
    assert "JobState=COMPLETED" in description, said(place, number)[-5000:]
    assert "ExitCode=0:0" in description


def said(place: Workplace, number: str) -> str:
    """Return the output of the script."""
    return (place.folder / f"slurm-{number}.out").read_text()


def scoring_processes(place: Workplace) -> list[tuple[str, int]]:
    """Return node and process of every score, in order."""
    path = place.folder / "scored.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(node, int(process)) for node, process in map(str.split, lines)]


@pytest.fixture(scope="module")
def searched(
    cluster: Cluster, undisturbed: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Workplace, str]]:
    """A folder in which the script has run to its end, and the id of its job."""
    with unsearched(undisturbed, tmp_path_factory.mktemp("dask"), cluster) as place:
        number = submitted(place, cluster)
        wait_for_end(place, cluster, number)
        yield place, number


def test_the_documented_script_gives_the_bytes_of_a_search_without_dask(searched, undisturbed):
    place, _ = searched
    assert (place.folder / target(place)).exists()
    assert_as_if_undisturbed(place, undisturbed)


def test_a_worker_of_each_node_scored_and_no_unit_was_scored_twice(searched, undisturbed):
    place, _ = searched
    assert {node for node, _ in scoring_processes(place)} == {"n1", "n2"}
    assert len(set(scoring_processes(place))) == 2
    assert len(scoring_processes(place)) == len(undisturbed.score_keys())


def test_workers_see_one_gpu_each_and_the_scheduler_none(searched, cluster):
    _, number = searched
    assert "none" in cluster.seen(number)
    assert cluster.seen(number) <= {"none", "0", "1"}


def test_scheduler_and_workers_end_with_the_job(searched, cluster):
    place, number = searched
    assert not cluster.processes(number)
    assert not (place.folder / f"dask-{number}.json").exists()


def test_snakemake_finds_the_node_done(searched):
    place, _ = searched
    assert place.run(target(place), "--dry-run", profiles=False) == 0, place.said()
    assert "Nothing to be done" in place.said()


def test_a_killed_worker_is_replaced_on_its_node(cluster, place, undisturbed):
    number = submitted(place, cluster)

    def both() -> bool:
        over = number not in cluster.queue(place.folder)
        return over or len(set(scoring_processes(place))) == 2

    cluster.wait("a score of each node", both, 120)
    workers = dict(scoring_processes(place))
    assert f"/proc/{workers['n2']}" in map(str, cluster.processes(number))
    os.kill(workers["n2"], signal.SIGKILL)
    wait_for_end(place, cluster, number)
    assert "Restarting worker" in said(place, number)
    assert_as_if_undisturbed(place, undisturbed)
