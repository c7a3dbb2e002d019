"""Turn the results of an experiment into tables and figures.

Consumes  results/plans/{digest12}.json         the nodes, and what stands in for what
          results/{kind}/{node}/                scores, factors, histories and manifests
Produces  results/reports/{report}/tables/*.csv     perplexity, passkey, benchmarks, cost; also as Markdown
          results/reports/{report}/figures/*.svg    perplexity, passkey, factors, convergence, training; also as PNG
          results/reports/{report}/tables/provenance.csv     which nodes made each table, and what made them
          results/reports/{report}/figures/provenance.html   the same as a page, with the graph of the nodes
"""


rule tabulate_perplexity:
    """Tabulate perplexity by corpus, method and length, with intervals over documents."""
    input:
        scores=done_of("evaluate", "perplexity"),
    output:
        csv=report(
            f"{TABLES}/perplexity.csv",
            caption="../workflow/report/perplexity_table.rst",
            category="Perplexity",
            labels={"item": "perplexity by length", "form": "table"},
        ),
        markdown=f"{TABLES}/perplexity.md",
    log:
        f"logs/tabulate_perplexity/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/tabulate_perplexity.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule tabulate_passkey:
    """Tabulate passkeys retrieved by method, length and depth."""
    input:
        scores=done_of("evaluate", "passkey"),
    output:
        csv=report(
            f"{TABLES}/passkey.csv",
            caption="../workflow/report/passkey_table.rst",
            category="Passkey retrieval",
            labels={"item": "passkeys by length and depth", "form": "table"},
        ),
        markdown=f"{TABLES}/passkey.md",
    log:
        f"logs/tabulate_passkey/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/tabulate_passkey.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule tabulate_benchmarks:
    """Tabulate multiple-choice benchmarks, with the value of guessing beside them."""
    input:
        scores=done_of("evaluate", "benchmarks"),
    output:
        csv=report(
            f"{TABLES}/benchmarks.csv",
            caption="../workflow/report/benchmarks_table.rst",
            category="Benchmarks",
            labels={"item": "benchmarks", "form": "table"},
        ),
        markdown=f"{TABLES}/benchmarks.md",
    log:
        f"logs/tabulate_benchmarks/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/tabulate_benchmarks.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule tabulate_cost:
    """Tabulate seconds, memory and scored tokens of every node, measured and estimated."""
    input:
        fetched=done_of("fetch"),
        tokenized=done_of("tokenize"),
        searched=done_of("search"),
        tuned=done_of("finetune"),
        readjusted=done_of("readjust"),
        evaluated=done_of("evaluate"),
    output:
        csv=report(
            f"{TABLES}/cost.csv",
            caption="../workflow/report/cost_table.rst",
            category="Cost",
            labels={"item": "cost of every node", "form": "table"},
        ),
        markdown=f"{TABLES}/cost.md",
    log:
        f"logs/tabulate_cost/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/tabulate_cost.py",
        hardware=HARDWARE,
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --hardware-table {params.hardware:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule plot_perplexity:
    """Plot the perplexity table: one panel per corpus, one line per method."""
    input:
        table=timeless([f"{TABLES}/perplexity.csv"]),
    output:
        svg=report(
            f"{FIGURES}/perplexity.svg",
            caption="../workflow/report/perplexity_figure.rst",
            category="Perplexity",
            labels={"item": "perplexity by length", "form": "figure"},
        ),
        png=f"{FIGURES}/perplexity.png",
    log:
        f"logs/plot_perplexity/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_perplexity.py",
        table=table_file("perplexity"),
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --table {params.table:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_passkey:
    """Plot the passkey table: one heat map of depth by length per method."""
    input:
        table=timeless([f"{TABLES}/passkey.csv"]),
    output:
        svg=report(
            f"{FIGURES}/passkey.svg",
            caption="../workflow/report/passkey_figure.rst",
            category="Passkey retrieval",
            labels={"item": "passkeys by length and depth", "form": "figure"},
        ),
        png=f"{FIGURES}/passkey.png",
    log:
        f"logs/plot_passkey/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_passkey.py",
        table=table_file("passkey"),
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --table {params.table:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_factors:
    """Plot the searched factors of each length against PI, NTK and YaRN."""
    input:
        base_model=done_of("fetch"),
        searched=done_of("search"),
        readjusted=done_of("readjust"),
    output:
        svg=report(
            f"{FIGURES}/factors.svg",
            caption="../workflow/report/factors_figure.rst",
            category="Search",
            labels={"item": "rescale factors", "form": "figure"},
        ),
        png=f"{FIGURES}/factors.png",
    log:
        f"logs/plot_factors/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_factors.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_convergence:
    """Plot the best perplexity of each search against the tokens it scored."""
    input:
        searched=done_of("search"),
        readjusted=done_of("readjust"),
    output:
        svg=report(
            f"{FIGURES}/convergence.svg",
            caption="../workflow/report/convergence_figure.rst",
            category="Search",
            labels={"item": "convergence", "form": "figure"},
        ),
        png=f"{FIGURES}/convergence.png",
    log:
        f"logs/plot_convergence/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_convergence.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule plot_training:
    """Plot loss, perplexity, learning rate, gradient norm and speed of each fine-tuning."""
    input:
        tuned=done_of("finetune"),
    output:
        svg=report(
            f"{FIGURES}/training.svg",
            caption="../workflow/report/training_figure.rst",
            category="Fine-tuning",
            labels={"item": "training curves", "form": "figure"},
        ),
        png=f"{FIGURES}/training.png",
    log:
        f"logs/plot_training/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_training.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --svg {output.svg:q}"
        " --png {output.png:q}"
        " > {log:q} 2>&1"


rule tabulate_provenance:
    """Tabulate the nodes behind each table and figure: commits, versions, machines."""
    input:
        nodes=done_of(),
        # A table made again may have been made of other nodes.
        products=timeless(tables_and_figures()),
    output:
        csv=report(
            f"{TABLES}/provenance.csv",
            caption="../workflow/report/provenance_table.rst",
            category="Provenance",
            labels={"item": "nodes behind every table", "form": "table"},
        ),
        markdown=f"{TABLES}/provenance.md",
    log:
        f"logs/tabulate_provenance/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/tabulate_provenance.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule plot_provenance:
    """Write the page with the graph of all nodes and with what made each table and figure."""
    input:
        nodes=done_of(),
        products=timeless(tables_and_figures()),
    output:
        html=report(
            f"{FIGURES}/provenance.html",
            caption="../workflow/report/provenance_page.rst",
            category="Provenance",
            labels={"item": "nodes behind every table", "form": "page"},
        ),
    log:
        f"logs/plot_provenance/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_provenance.py",
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --html {output.html:q}"
        " > {log:q} 2>&1"


rule name_results:
    """Link the results of this plan under human names."""
    input:
        tables=timeless(tables_and_figures()),
        nodes=done_of(),
        provenance=timeless([f"{TABLES}/provenance.csv", f"{FIGURES}/provenance.html"]),
    output:
        temp(touch(f"{STORE}/.work/named/{REPORT_NAME}.{{token}}")),
    log:
        f"logs/name_results/{REPORT_NAME}.{{token}}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} -m longrope names"
        " {params.plan:q}"
        " --report {params.report:q}"
        " > {log:q} 2>&1"
