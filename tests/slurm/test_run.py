"""The smallest experiment through `snakemake --profile slurm`."""

import pytest

from slurm.cluster import Cluster, Job
from slurm.workplace import Workplace

ON_GPUS = {"search_factors", "finetune_model", "readjust_factors", "evaluate_task"}


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, finished: Workplace) -> list[Job]:
    """The jobs of the whole experiment."""
    return cluster.jobs(finished.folder)


def test_the_whole_experiment_goes_through_the_cluster(finished, jobs):
    tables = {path.name for path in (finished.store / "tables" / "small").iterdir()}
    assert {"perplexity.csv", "passkey.csv", "cost.csv"} <= tables
    assert {job.state for job in jobs} == {"COMPLETED"}


def test_every_node_is_one_job_and_nothing_else_is(finished, jobs):
    nodes = finished.store.glob("[a-z]*/*/manifest.json")
    assert len(jobs) == len([node for node in nodes if node.parts[-3] != "fetch"])
    assert {job.rule for job in jobs} == ON_GPUS | {"tokenize_corpus"}


def test_stages_that_compute_with_the_model_get_one_gpu_and_see_only_it(cluster, jobs):
    for job in jobs:
        if job.rule in ON_GPUS:
            assert job.gpus == 1, job
            assert cluster.seen(job.id) in ({"0"}, {"1"}), job


def test_stages_without_a_model_ask_for_no_gpu_and_see_none(cluster, jobs):
    others = [job for job in jobs if job.rule not in ON_GPUS]
    assert others
    for job in others:
        assert job.gpus == 0, job
        assert cluster.seen(job.id) == {"none"}, job


def test_the_profile_of_the_site_says_which_partition_a_stage_goes_to(jobs):
    for job in jobs:
        assert job.partition == ("graphics" if job.rule in ON_GPUS else "plain"), job


def test_downloads_stay_on_the_submitting_host(finished, jobs):
    assert (finished.store / finished.key("fetch/books-train") / "manifest.json").exists()
    assert "fetch_files" not in {job.rule for job in jobs}
