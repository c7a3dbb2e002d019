"""Turn the results of an experiment into tables and figures.

Consumes  results/plans/{experiment}.json       the nodes, and what stands in for what
          results/{kind}/{node}/                scores, factors, histories and manifests
Produces  results/tables/{experiment}/*.csv     perplexity, passkey, benchmarks, cost; also as Markdown
          results/figures/{experiment}/*.svg    perplexity, passkey, factors, convergence, training; also as PNG
          results/tables/{experiment}/provenance.csv     which nodes made each table, and what made them
          results/figures/{experiment}/provenance.html   the same as a page, with the graph of the nodes
"""


rule tabulate_perplexity:
    """Tabulate perplexity by corpus, method and length, with intervals over documents."""
    input:
        script=f"{SCRIPTS}/tabulate_perplexity.py",
        plan=PLAN_FILE,
        scores=done_of("evaluate", "perplexity"),
    output:
        csv=report(
            f"{STORE}/tables/{EXPERIMENT}/perplexity.csv",
            caption="../workflow/report/perplexity_table.rst",
            category="Perplexity",
            labels={"item": "perplexity by length", "form": "table"},
        ),
        markdown=f"{STORE}/tables/{EXPERIMENT}/perplexity.md",
    log:
        f"logs/tabulate_perplexity/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule tabulate_passkey:
    """Tabulate passkeys retrieved by method, length and depth."""
    input:
        script=f"{SCRIPTS}/tabulate_passkey.py",
        plan=PLAN_FILE,
        scores=done_of("evaluate", "passkey"),
    output:
        csv=report(
            f"{STORE}/tables/{EXPERIMENT}/passkey.csv",
            caption="../workflow/report/passkey_table.rst",
            category="Passkey retrieval",
            labels={"item": "passkeys by length and depth", "form": "table"},
        ),
        markdown=f"{STORE}/tables/{EXPERIMENT}/passkey.md",
    log:
        f"logs/tabulate_passkey/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule tabulate_benchmarks:
    """Tabulate multiple-choice benchmarks, with the value of guessing beside them."""
    input:
        script=f"{SCRIPTS}/tabulate_benchmarks.py",
        plan=PLAN_FILE,
        scores=done_of("evaluate", "benchmarks"),
    output:
        csv=report(
            f"{STORE}/tables/{EXPERIMENT}/benchmarks.csv",
            caption="../workflow/report/benchmarks_table.rst",
            category="Benchmarks",
            labels={"item": "benchmarks", "form": "table"},
        ),
        markdown=f"{STORE}/tables/{EXPERIMENT}/benchmarks.md",
    log:
        f"logs/tabulate_benchmarks/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule tabulate_cost:
    """Tabulate seconds, memory and scored tokens of every node, measured and estimated."""
    input:
        script=f"{SCRIPTS}/tabulate_cost.py",
        plan=PLAN_FILE,
        hardware=f"{workflow.basedir}/config/hardware.yaml",
        fetched=done_of("fetch"),
        tokenized=done_of("tokenize"),
        searched=done_of("search"),
        tuned=done_of("finetune"),
        readjusted=done_of("readjust"),
        evaluated=done_of("evaluate"),
    output:
        csv=report(
            f"{STORE}/tables/{EXPERIMENT}/cost.csv",
            caption="../workflow/report/cost_table.rst",
            category="Cost",
            labels={"item": "cost of every node", "form": "table"},
        ),
        markdown=f"{STORE}/tables/{EXPERIMENT}/cost.md",
    log:
        f"logs/tabulate_cost/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --hardware-table {input.hardware:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule plot_perplexity:
    """Plot the perplexity table: one panel per corpus, one line per method."""
    input:
        script=f"{SCRIPTS}/plot_perplexity.py",
        plan=PLAN_FILE,
        table=f"{STORE}/tables/{EXPERIMENT}/perplexity.csv",
    output:
        svg=report(
            f"{STORE}/figures/{EXPERIMENT}/perplexity.svg",
            caption="../workflow/report/perplexity_figure.rst",
            category="Perplexity",
            labels={"item": "perplexity by length", "form": "figure"},
        ),
        png=f"{STORE}/figures/{EXPERIMENT}/perplexity.png",
    log:
        f"logs/plot_perplexity/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --table {input.table:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_passkey:
    """Plot the passkey table: one heat map of depth by length per method."""
    input:
        script=f"{SCRIPTS}/plot_passkey.py",
        plan=PLAN_FILE,
        table=f"{STORE}/tables/{EXPERIMENT}/passkey.csv",
    output:
        svg=report(
            f"{STORE}/figures/{EXPERIMENT}/passkey.svg",
            caption="../workflow/report/passkey_figure.rst",
            category="Passkey retrieval",
            labels={"item": "passkeys by length and depth", "form": "figure"},
        ),
        png=f"{STORE}/figures/{EXPERIMENT}/passkey.png",
    log:
        f"logs/plot_passkey/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --table {input.table:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_factors:
    """Plot the searched factors of each length against PI, NTK and YaRN."""
    input:
        script=f"{SCRIPTS}/plot_factors.py",
        plan=PLAN_FILE,
        base_model=done_of("fetch"),
        searched=done_of("search"),
        readjusted=done_of("readjust"),
    output:
        svg=report(
            f"{STORE}/figures/{EXPERIMENT}/factors.svg",
            caption="../workflow/report/factors_figure.rst",
            category="Search",
            labels={"item": "rescale factors", "form": "figure"},
        ),
        png=f"{STORE}/figures/{EXPERIMENT}/factors.png",
    log:
        f"logs/plot_factors/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_convergence:
    """Plot the best perplexity of each search against the tokens it scored."""
    input:
        script=f"{SCRIPTS}/plot_convergence.py",
        plan=PLAN_FILE,
        searched=done_of("search"),
        readjusted=done_of("readjust"),
    output:
        svg=report(
            f"{STORE}/figures/{EXPERIMENT}/convergence.svg",
            caption="../workflow/report/convergence_figure.rst",
            category="Search",
            labels={"item": "convergence", "form": "figure"},
        ),
        png=f"{STORE}/figures/{EXPERIMENT}/convergence.png",
    log:
        f"logs/plot_convergence/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_training:
    """Plot loss, perplexity, learning rate, gradient norm and speed of each fine-tuning."""
    input:
        script=f"{SCRIPTS}/plot_training.py",
        plan=PLAN_FILE,
        tuned=done_of("finetune"),
    output:
        svg=report(
            f"{STORE}/figures/{EXPERIMENT}/training.svg",
            caption="../workflow/report/training_figure.rst",
            category="Fine-tuning",
            labels={"item": "training curves", "form": "figure"},
        ),
        png=f"{STORE}/figures/{EXPERIMENT}/training.png",
    log:
        f"logs/plot_training/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule tabulate_provenance:
    """Tabulate the nodes behind each table and figure: commits, versions, machines."""
    input:
        script=f"{SCRIPTS}/tabulate_provenance.py",
        plan=PLAN_FILE,
        nodes=done_of(),
        # A table made again may have been made of other nodes.
        products=tables_and_figures(),
    output:
        csv=report(
            f"{STORE}/tables/{EXPERIMENT}/provenance.csv",
            caption="../workflow/report/provenance_table.rst",
            category="Provenance",
            labels={"item": "nodes behind every table", "form": "table"},
        ),
        markdown=f"{STORE}/tables/{EXPERIMENT}/provenance.md",
    log:
        f"logs/tabulate_provenance/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule plot_provenance:
    """Write the page with the graph of all nodes and with what made each table and figure."""
    input:
        script=f"{SCRIPTS}/plot_provenance.py",
        plan=PLAN_FILE,
        nodes=done_of(),
        products=tables_and_figures(),
    output:
        html=report(
            f"{STORE}/figures/{EXPERIMENT}/provenance.html",
            caption="../workflow/report/provenance_page.rst",
            category="Provenance",
            labels={"item": "nodes behind every table", "form": "page"},
        ),
    log:
        f"logs/plot_provenance/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --html {output.html:q}"
        " > {log:q} 2>&1"


rule name_results:
    """Link every node's directory under a human name, as the newest plan has it."""
    input:
        plan=PLAN_FILE,
        nodes=done_of(),
    output:
        f"{STORE}/by-name/{EXPERIMENT}/plan.json",
    log:
        f"logs/name_results/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} -m longrope names"
        " {input.plan:q}"
        " --output {output:q}"
        " > {log:q} 2>&1"
