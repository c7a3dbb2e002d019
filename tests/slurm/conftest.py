"""The cluster of the Slurm tests, and the undisturbed runs that they compare with.

Nothing here is collected unless LONGROPE_TEST_SLURM=1: `make test-slurm` sets it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.cluster import Cluster, running
from slurm.searching import target, unsearched
from slurm.workplace import Workplace

collect_ignore_glob = [] if os.environ.get("LONGROPE_TEST_SLURM") == "1" else ["test_*.py"]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster."""
    with running() as cluster:
        yield cluster


@pytest.fixture(scope="session", autouse=True)
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A folder from which the smallest experiment goes through the cluster beside the first tests."""
    folder = tmp_path_factory.mktemp("whole") / "a run"
    place = Workplace.new(folder, cluster, lambda settings: None)
    place.start()
    yield place
    place.end()


@pytest.fixture(scope="session")
def finished(whole: Workplace) -> Workplace:
    """A folder in which the smallest experiment has gone through the cluster."""
    assert whole.wait() == 0, whole.said()[-5000:]
    return whole


@pytest.fixture(scope="session")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A folder in which a search of some seconds has been run on this machine alone."""

    def lengthen(settings: dict[str, Any]) -> None:
        settings["search"]["algorithm"]["num_iterations"] = 100

    place = Workplace.new(tmp_path_factory.mktemp("undisturbed") / "run", cluster, lengthen)
    place.plan("results/plans/small.json")
    assert place.run(target(place), "--cores", "2", profiles=False) == 0, place.said()[-5000:]
    return place


@pytest.fixture
def place(cluster: Cluster, undisturbed: Workplace, tmp_path: Path) -> Iterator[Workplace]:
    """A folder in which only the search is still to be done."""
    with unsearched(undisturbed, tmp_path, cluster) as place:
        yield place
