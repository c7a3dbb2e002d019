"""Fine-tuning under searched factors.

Consumes  results/plans/*.json              what each node is made of
Produces  results/finetune/{node}/DONE   marks a finished node; the manifest beside it lists its files
"""


rule finetune_model:
    """Fine-tune a model under the factors found for one target length."""
    input:
        inputs_of("finetune"),
    output:
        f"{STORE}/finetune/{{node}}/DONE",
    log:
        "logs/finetune/{node}.log",
    priority: 60
    conda:
        "../workflow/envs/longrope.yaml"
    threads: asks("finetune", "threads")
    resources:
        gres=asks("finetune", "gres"),
        nodes=asks("finetune", "nodes"),
        tasks=asks("finetune", "nodes"),
        tasks_per_gpu=0,
        mpi=asks("finetune", "mpi"),
        mem_mb=asks("finetune", "mem_mb"),
        runtime=asks("finetune", "runtime"),
    params:
        plan=JOB_PLAN,
        store=results_folder,
        launcher=launcher,
        threads=threads_of_process,
    shell:
        # torchrun kills processes that are still saving after so many seconds, by itself after 30
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=240"
        " OMP_WAIT_POLICY=PASSIVE {params.launcher} run"
        " finetune/{wildcards.node:q}"
        " --plan {params.plan:q}"
        " --store {params.store:q}"
        " --threads {params.threads}"
        " > {log:q} 2>&1"
