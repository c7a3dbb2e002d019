"""Launch of jobs: the interpreter, and several processes. No rule here."""

import shlex


def check_interpreter():
    """Refuse to submit jobs whose command Snakemake would write wrongly: it does not quote its interpreter."""
    if workflow.executor_plugin.common_settings.local_exec:
        return
    if shlex.quote(PYTHON) != PYTHON:
        raise WorkflowError(
            f"jobs cannot be submitted with the interpreter {PYTHON}: Snakemake does not quote its path in their "
            "command, so move the clone, or its environment, to a path without spaces and other special characters."
        )


# The only one: Snakemake forgets all but the last.
onstart:
    check_interpreter()
    if workflow.is_main_process:
        write_plan()


def gpus_of(resources):
    """Return the GPUs of each node of a job."""
    return int(str(resources.get("gres") or ":0").rpartition(":")[2])


def threads_of_process(wildcards, resources, threads):
    """Return the threads of arithmetic of each process."""
    return max(1, threads // max(1, gpus_of(resources)))


def launcher(wildcards, resources, threads):
    """Return what starts `longrope`: Python, or a process per GPU, on several nodes through srun.

    The gres says how many, so that a profile which asks for other GPUs than the plan starts as many.
    """
    python = shlex.quote(PYTHON)
    gpus = gpus_of(resources)
    if gpus * resources.nodes < 2:
        return f"{python} -m longrope"
    processes = f"--nproc-per-node={gpus} -m longrope"
    if resources.nodes == 1:
        return f"{python} -m torch.distributed.run --standalone {processes}"
    # Each task of srun knows its node's number; see docs/cluster.md.
    on_each_node = (
        'exec "$0" -m torch.distributed.run'
        " --nnodes=$SLURM_NNODES --node-rank=$SLURM_NODEID"
        " --master-addr=$SLURM_LAUNCH_NODE_IPADDR --master-port=$((20000 + SLURM_JOB_ID % 20000))"
        ' "$@"'
    )
    return (
        f"{resources.mpi} --nodes={resources.nodes} --ntasks={resources.nodes}"
        f" --ntasks-per-node=1 --cpus-per-task={threads} --kill-on-bad-exit=1"
        f" bash -c '{on_each_node}' {python} {processes}"
    )
