"""How a rule starts one process per node: two nodes of two GPUs each add up the ranks of four processes."""

import sys


rule all:
    input:
        "sum.txt",


rule add_ranks:
    """Start torch.distributed.run once per node through srun, as a fine-tuning over nodes would."""
    input:
        script="add_ranks.py",
    output:
        "sum.txt",
    log:
        "add_ranks.log",
    threads: 2
    resources:
        nodes=2,
        tasks=2,
        tasks_per_gpu=0,
        gres="gpu:2",
        mpi="srun",
        mem_mb=8000,
        runtime=10,
    params:
        python=sys.executable,
        gpus_per_node=2,
    shell:
        "{resources.mpi} --nodes={resources.nodes} --ntasks={resources.tasks}"
        " --ntasks-per-node=1 --cpus-per-task={threads} --kill-on-bad-exit=1"
        ' bash -c \'exec "$0" -m torch.distributed.run'
        " --nnodes=$SLURM_NNODES --node-rank=$SLURM_NODEID"
        " --master-addr=$SLURM_LAUNCH_NODE_IPADDR --master-port=$((20000 + SLURM_JOB_ID % 20000))"
        ' "$@"\' {params.python:q}'
        " --nproc-per-node={params.gpus_per_node} {input.script:q} {output:q}"
        " > {log:q} 2>&1"
