"""A node or the controller goes away while a job runs."""

import signal
import time
from typing import Any

import pytest

from slurm.searching import assert_as_if_undisturbed, frozen_in_the_middle

pytestmark = pytest.mark.usefixtures("finished")  # or the whole experiment would suffer too


def poll_later(site: dict[str, Any]) -> None:
    """Let the third look at a job come after 54 s, when these tests are through."""
    site["slurm-init-seconds-before-status-checks"] = 8
    site["seconds-between-status-checks"] = 8


def test_the_job_of_a_dead_node_finishes_on_the_other(cluster, place, undisturbed):
    place.change_site(poll_later)
    number = frozen_in_the_middle(place, cluster)
    (first,) = cluster.jobs(place.folder)
    cluster.kill_node(first.node)
    try:
        cluster.wait("a requeued job", lambda: cluster.queue(place.folder)[number] == "PD")
        place.forget_claims()
        # Slurm would give the node two minutes to come back.
        cluster.call("scontrol", "update", f"JobId={number}", "StartTime=now")
        assert place.wait() == 0, place.said()[-5000:]
    finally:
        cluster.start_node(first.node)
    runs = cluster.jobs(place.folder)
    assert [run.state for run in runs] == ["NODE_FAIL", "COMPLETED"]
    assert {run.id for run in runs} == {number}
    assert runs[0].node != runs[1].node
    assert_as_if_undisturbed(place, undisturbed)


def test_a_controller_and_accounting_that_are_away_for_a_while_are_outlived(
    cluster, place, undisturbed
):
    place.change_site(poll_later)
    frozen_in_the_middle(place, cluster, "--verbose")
    # While the controller is away the plugin asks the accounting.
    cluster.stop_controller()
    cluster.stop_accounting()
    try:
        place.signal(signal.SIGCONT)
        time.sleep(25)
        cluster.wait("a look in vain", lambda: "could not check status" in place.said(), 90)
    finally:
        cluster.start_accounting()
        cluster.start_controller()
    assert place.wait() == 0, place.said()[-5000:]
    assert [job.state for job in cluster.jobs(place.folder)] == ["COMPLETED"]
    assert_as_if_undisturbed(place, undisturbed)
