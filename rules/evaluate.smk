"""Perplexity, passkey retrieval and multiple choice.

Consumes  results/plans/*.json              what each node is made of
Produces  results/evaluate/{node}/DONE   marks a finished node; the manifest beside it lists its files
"""

EVALUATE = (
    "OMP_WAIT_POLICY=PASSIVE {params.python:q} -m longrope run {params.nodes:q}"
    " --plan {params.plan:q}"
    " --store {params.store:q}"
    " --threads {threads}"
    " > {log:q} 2>&1"
)

if PLAN.evaluations_per_job == 1:

    rule evaluate_task:
        """Evaluate one task on one model under one method."""
        input:
            inputs_of("evaluate"),
        output:
            f"{STORE}/evaluate/{{node}}/DONE",
        log:
            "logs/evaluate/{node}.log",
        conda:
            "../workflow/envs/longrope.yaml"
        threads: 1
        resources:
            gres=asks("evaluate", "gres"),
            nodes=asks("evaluate", "nodes"),
            mem_mb=asks("evaluate", "mem_mb"),
            runtime=asks("evaluate", "runtime"),
        params:
            plan=JOB_PLAN,
            store=results_folder,
            python=interpreter,
            nodes="evaluate/{node}",
        shell:
            EVALUATE

else:
    for index, batch in enumerate(PLAN.evaluation_batches()):

        rule:
            name:
                f"evaluate_batch_{index}"
            input:
                inputs_of_all(batch),
            output:
                [f"{STORE}/{node.key}/DONE" for node in batch],
            log:
                f"logs/evaluate/{batch[0].name}.log",
            conda:
                "../workflow/envs/longrope.yaml"
            threads: 1
            resources:
                gres=asks_together(batch, "gres"),
                nodes=asks_together(batch, "nodes"),
                mem_mb=asks_together(batch, "mem_mb"),
                runtime=asks_together(batch, "runtime"),
            params:
                plan=JOB_PLAN,
                store=results_folder,
                python=interpreter,
                nodes=[node.key for node in batch],
            shell:
                EVALUATE
