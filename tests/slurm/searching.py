"""The search that the tests of failures disturb, and the checks of its result."""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

from slurm.cluster import Cluster
from slurm.workplace import Workplace

SEARCH = "search/random-llama-256"


def target(place: Workplace) -> str:
    """Return the file that marks the search as finished."""
    return f"results/{place.key(SEARCH)}/DONE"


@contextlib.contextmanager
def unsearched(undisturbed: Workplace, parent: Path, cluster: Cluster) -> Iterator[Workplace]:
    """Yield a copy of the undisturbed run without its search; no job of it is left in the end."""
    folder = parent / "run"
    shutil.copytree(undisturbed.folder, folder, symlinks=True)
    place = Workplace(folder, cluster)
    shutil.rmtree(place.store / place.key(SEARCH))
    shutil.rmtree(place.store / ".scores")
    (folder / "said.txt").unlink()
    try:
        yield place
    finally:
        place.end()
        cluster.cancel_all(folder)


def frozen_in_the_middle(place: Workplace, cluster: Cluster, *arguments: str) -> str:
    """Start the search, stop its process after some candidates and return the id of its job.

    A stopped process neither ends before the test has done its harm nor gives signs of life.
    """
    place.start(target(place), *arguments)
    cluster.wait("ten scores", lambda: len(place.score_keys()) >= 10 or not place.running, 120)
    assert place.running, place.said()[-5000:]
    place.signal(signal.SIGSTOP)
    (number,) = cluster.queue(place.folder)
    return number


def assert_as_if_undisturbed(place: Workplace, undisturbed: Workplace) -> None:
    """Compare bytes; no candidate was scored twice, none is missing, and nothing is left over."""
    node = place.key(SEARCH)
    for file in ("factors.json", "history.jsonl"):
        expected = (undisturbed.store / node / file).read_bytes()
        assert (place.store / node / file).read_bytes() == expected
    assert sorted(place.score_keys()) == sorted(undisturbed.score_keys())
    assert not list(place.store.glob(".work/search/*"))
