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
    threads: 1
    resources:
        gres=asks("finetune", "gres"),
        nodes=asks("finetune", "nodes"),
        mem_mb=asks("finetune", "mem_mb"),
        runtime=asks("finetune", "runtime"),
    params:
        plan=JOB_PLAN,
        python=PYTHON,
    shell:
        "OMP_WAIT_POLICY=PASSIVE {params.python:q} -m longrope run"
        " finetune/{wildcards.node:q}"
        " --plan {params.plan:q}"
        " --threads {threads}"
        " > {log:q} 2>&1"
