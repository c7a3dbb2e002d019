"""Short-length factors of the extended model, and its whole table of factors by length.

Consumes  results/plans/*.json              what each node is made of
Produces  results/readjust/{node}/DONE   marks a finished node; the manifest beside it lists its files
"""


rule readjust_factors:
    """Search short-length factors of the extended model."""
    input:
        inputs_of("readjust"),
    output:
        f"{STORE}/readjust/{{node}}/DONE",
    log:
        "logs/readjust/{node}.log",
    priority: 60
    conda:
        "../workflow/envs/longrope.yaml"
    threads: 1  # one worker each, with one thread of arithmetic
    resources:
        gres=asks_by_worker("readjust", "gres"),
        nodes=asks("readjust", "nodes"),
        mem_mb=asks_by_worker("readjust", "mem_mb"),
        runtime=asks("readjust", "runtime"),
        worker_timeout=0,  # seconds for one document; 0: none
    params:
        plan=JOB_PLAN,
        store=results_folder,
        python=interpreter,
        limit=limit_of_workers,
    shell:
        "OMP_WAIT_POLICY=PASSIVE {params.python:q} -m longrope run"
        " readjust/{wildcards.node:q}"
        " --plan {params.plan:q}"
        " --store {params.store:q}"
        " --threads 1"
        " --workers {threads}"
        "{params.limit}"
        " > {log:q} 2>&1"
