"""Search of one factor per rotary pair, and of the start tokens.

Consumes  results/plans/*.json              what each node is made of
Produces  results/search/{node}/DONE   marks a finished node; the manifest beside it lists its files
"""


rule search_factors:
    """Search the factors of one model for one target length."""
    input:
        inputs_of("search"),
    output:
        f"{STORE}/search/{{node}}/DONE",
    log:
        "logs/search/{node}.log",
    priority: 40
    conda:
        "../workflow/envs/longrope.yaml"
    threads: 1  # one worker each, with one thread of arithmetic
    resources:
        gres=asks_by_worker("search", "gres"),
        nodes=asks("search", "nodes"),
        mem_mb=asks_by_worker("search", "mem_mb"),
        runtime=asks("search", "runtime"),
        worker_timeout=0,  # seconds for one document; 0: none
    params:
        plan=JOB_PLAN,
        store=results_folder,
        python=interpreter,
        limit=limit_of_workers,
    shell:
        "OMP_WAIT_POLICY=PASSIVE {params.python:q} -m longrope run"
        " search/{wildcards.node:q}"
        " --plan {params.plan:q}"
        " --store {params.store:q}"
        " --threads 1"
        " --workers {threads}"
        "{params.limit}"
        " > {log:q} 2>&1"
