"""Everything that downloads; runs on the submitting host, since compute nodes may have no network.

Consumes  results/plans/*.json              what each node is made of
Produces  results/fetch/{node}/DONE   marks a finished node; the manifest beside it lists its files
"""


localrules:
    fetch_files,


rule fetch_files:
    """Download what packages and hubs hold, pinned and checked."""
    input:
        inputs_of("fetch"),
    output:
        f"{STORE}/fetch/{{node}}/DONE",
    log:
        "logs/fetch/{node}.log",
    conda:
        "../workflow/envs/longrope.yaml"
    threads: 1
    resources:
        gres=asks("fetch", "gres"),
        nodes=asks("fetch", "nodes"),
        mem_mb=asks("fetch", "mem_mb"),
        runtime=asks("fetch", "runtime"),
    params:
        plan=JOB_PLAN,
        store=results_folder,
        python=interpreter,
    shell:
        "OMP_WAIT_POLICY=PASSIVE {params.python:q} -m longrope run"
        " fetch/{wildcards.node:q}"
        " --plan {params.plan:q}"
        " --store {params.store:q}"
        " --threads {threads}"
        " > {log:q} 2>&1"
