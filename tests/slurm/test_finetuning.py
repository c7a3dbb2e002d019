"""A fine-tuning of two processes through its rule: on one node, and on two."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from slurm.cluster import Cluster
from slurm.workplace import Workplace

FINETUNE = "finetune/random-llama-256"
# Python runs this first in every process: it tells of those that torchrun started.
WITNESS = """
import os
if "RANK" in os.environ:
    names = ("RANK", "WORLD_SIZE", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES")
    with open({path!r}, "a") as file:
        file.write(" ".join(os.environ.get(name, "none") for name in names) + "\\n")
"""
WATCH = {"documents": {"corpus": "words", "split": "validation"}, "every_steps": 1}
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one node": (2, {"parallel": {"sequence_parallel": 2}}),
    "two nodes": (1, {"parallel": {"sequence_parallel": 2, "zero_stage": 2}, "watch": WATCH}),
}
"""GPUs of a node of the machine, and changes of the fine-tuning's settings"""
LONG = 1500
"""steps that take about a minute"""


def untrained(
    finished: Workplace, folder: Path, cluster: Cluster, gpus: int, changes: dict[str, Any]
) -> Workplace:
    """Return a copy of the finished run without its tuned model, for a machine of so many GPUs a node."""
    shutil.copytree(finished.folder, folder, symlinks=True)
    place = Workplace(folder, cluster)
    shutil.rmtree(place.store / place.key(FINETUNE))
    hardware = folder / "config" / "hardware.yaml"
    machines = yaml.safe_load(hardware.read_text())
    machines["small"] = machines["h100-80"] | {"gpus_per_node": gpus}
    hardware.write_text(yaml.safe_dump(machines))
    settings = yaml.safe_load((folder / "small.yaml").read_text()) | {"hardware": "small"}
    settings["extension"][0]["finetune"] |= changes
    (folder / "small.yaml").write_text(yaml.safe_dump(settings))
    (folder / "sitecustomize.py").write_text(WITNESS.format(path=str(folder / "ranks.txt")))
    return place


@pytest.fixture(scope="module")
def places(
    cluster: Cluster, finished: Workplace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Workplace]]:
    """Folders in which a fine-tuning of each case has been run, at the same time."""
    parent = tmp_path_factory.mktemp("tuned")
    made = {}
    try:
        for name, (gpus, changes) in CASES.items():
            place = untrained(finished, parent / name.replace(" ", "-"), cluster, gpus, changes)
            made[name] = place
            place.start(f"results/{place.key(FINETUNE)}/DONE", "--retries", "0")
        for place in made.values():
            assert place.wait() == 0, place.said()[-3000:] + log_of(place)
        yield made
    finally:
        for place in made.values():
            place.end()
            cluster.cancel_all(place.folder)


def log_of(place: Workplace) -> str:
    """Return the end of the fine-tuning's output."""
    return "".join(path.read_text()[-3000:] for path in place.folder.glob("logs/finetune/*.log"))


def ranks(place: Workplace) -> list[list[str]]:
    """Return rank, number of processes, node and GPUs of every process of the training."""
    return sorted(line.split() for line in (place.folder / "ranks.txt").read_text().splitlines())


@pytest.mark.parametrize("name", CASES)
def test_a_fine_tuning_of_two_gpus_is_one_job_and_commits_once(places, cluster, name):
    place = places[name]
    (job,) = cluster.jobs(place.folder)
    assert (job.rule, job.gpus, job.state) == ("finetune_model", 2, "COMPLETED")
    assert [rank[:2] for rank in ranks(place)] == [["0", "2"], ["1", "2"]]
    (node,) = place.store.glob("finetune/*")
    assert node.name == place.key(FINETUNE).rpartition("/")[2]
    assert (node / "model" / "model.safetensors").is_file()
    assert not list(place.store.glob(".work/finetune/*"))


def test_the_processes_of_one_node_see_both_of_its_gpus(places, cluster):
    place = places["one node"]
    assert {tuple(rank[2:]) for rank in ranks(place)} in ({("n1", "0,1")}, {("n2", "0,1")})
    (job,) = cluster.jobs(place.folder)
    assert cluster.seen(job.id) == {"0,1"}


def test_the_processes_of_two_nodes_see_the_one_gpu_each_that_was_asked_for(places, cluster):
    place = places["two nodes"]
    assert [rank[2] for rank in ranks(place)] == ["n1", "n2"]
    assert {rank[3] for rank in ranks(place)} <= {"0", "1"}
    (job,) = cluster.jobs(place.folder)
    assert job.node == "n[1-2]"
    assert cluster.seen(job.id) <= {"0", "1"}


def test_both_trainings_have_the_losses_of_the_one_on_one_gpu(places, finished):
    def losses(place: Workplace) -> list[float]:
        lines = (place.store / place.key(FINETUNE) / "log.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    for place in places.values():
        assert losses(place) == pytest.approx(losses(finished), rel=1e-4)


def test_a_training_of_two_processes_is_watched(places):
    place = places["two nodes"]
    lines = (place.store / place.key(FINETUNE) / "watched.jsonl").read_text().splitlines()
    seen = [(entry["step"], entry["length"]) for entry in map(json.loads, lines)]
    assert seen == [(step, length) for step in (0, 1, 2) for length in (128, 256)]


def steps_taken(place: Workplace) -> int:
    """Return how many steps a training that is not over has logged."""
    logs = list(place.store.glob(".work/finetune/*/_log.jsonl"))
    return sum(len(path.read_text().splitlines()) for path in logs)


@pytest.mark.skipif(
    os.environ.get("LONGROPE_TEST_SLURM_LONG") != "1",
    reason="takes six minutes; LONGROPE_TEST_SLURM_LONG=1 runs it",
)
def test_a_fine_tuning_near_its_time_limit_saves_a_checkpoint_and_the_next_job_ends_it(
    finished, tmp_path, cluster
):
    gpus, changes = CASES["one node"]
    long = {"num_steps": LONG, "checkpoint_steps": LONG}
    place = untrained(finished, tmp_path / "limited", cluster, gpus, changes | long)
    place.plan("results/plans/small.json")
    target = f"results/{place.key(FINETUNE)}/DONE"
    try:
        place.start(target, "--retries", "0")
        cluster.wait("the training", lambda: steps_taken(place) >= 5, 120)
        (number,) = cluster.queue(place.folder)
        # the profile's five minutes before a limit of one begin at once
        cluster.call("scontrol", "update", f"JobId={number}", "TimeLimit=1")
        assert place.wait() != 0
        (step,) = re.findall(r"told to end; step (\d+) is saved", log_of(place))
        assert 5 <= int(step) < LONG
        (checkpoint,) = place.store.glob(".work/finetune/*/_checkpoints*/checkpoint-*")
        assert checkpoint.name == f"checkpoint-{step}"
        assert place.run(target, "--retries", "0") == 0, place.said()[-3000:] + log_of(place)
    finally:
        place.end()
        cluster.cancel_all(place.folder)
    assert [job.state for job in cluster.jobs(place.folder)] == ["FAILED", "COMPLETED"]
    lines = (place.store / place.key(FINETUNE) / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, LONG + 1))
