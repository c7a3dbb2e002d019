"""A job of several nodes, which starts its processes through srun."""

import shutil
from pathlib import Path

from slurm.workplace import ROOT, Workplace, write_site

HERE = Path(__file__).parent


def test_a_job_of_two_nodes_starts_once_per_node_and_its_processes_meet(cluster, tmp_path):
    for name in ("several_nodes.smk", "add_ranks.py"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    write_site(tmp_path)
    place = Workplace(tmp_path, cluster)
    try:
        code = place.run("--snakefile", "several_nodes.smk")
        log = tmp_path / "add_ranks.log"
        assert code == 0, place.said()[-3000:] + (log.read_text()[-3000:] if log.exists() else "")
    finally:
        place.end()
    total, *places = (tmp_path / "sum.txt").read_text().splitlines()
    assert total == "sum 6"  # of the ranks 0, 1, 2 and 3
    assert places == ["n1 0,1", "n1 0,1", "n2 0,1", "n2 0,1"]
    (job,) = cluster.jobs(tmp_path)
    assert (job.gpus, job.node, job.state) == (4, "n[1-2]", "COMPLETED")
