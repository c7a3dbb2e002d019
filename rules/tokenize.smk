"""Documents to token stores.

Consumes  results/plans/*.json              what each node is made of
Produces  results/tokenize/{node}/DONE   marks a finished node; the manifest beside it lists its files
"""


rule tokenize_corpus:
    """Turn the documents of one split of a corpus into a token store."""
    input:
        inputs_of("tokenize"),
    output:
        f"{STORE}/tokenize/{{node}}/DONE",
    log:
        "logs/tokenize/{node}.log",
    priority: 50
    conda:
        "../workflow/envs/longrope.yaml"
    threads: 1
    resources:
        gres=asks("tokenize", "gres"),
        nodes=asks("tokenize", "nodes"),
        mem_mb=asks("tokenize", "mem_mb"),
        runtime=asks("tokenize", "runtime"),
    params:
        plan=JOB_PLAN,
        store=results_folder,
        python=interpreter,
    shell:
        "OMP_WAIT_POLICY=PASSIVE {params.python:q} -m longrope run"
        " tokenize/{wildcards.node:q}"
        " --plan {params.plan:q}"
        " --store {params.store:q}"
        " --threads {threads}"
        " > {log:q} 2>&1"
