"""Turn a study of searches into tables and figures.

Consumes  results/plans/{experiment}.json       the nodes, and what stands in for what
          results/search/{node}/                factors, histories and manifests
Produces  results/tables/{experiment}/*.csv     search, search_summary; also as Markdown
          results/figures/{experiment}/*.svg    search, search_convergence; also as PNG
"""


rule tabulate_search:
    """Tabulate what each search of a study found, by algorithm, length and seed."""
    input:
        script=f"{SCRIPTS}/tabulate_search.py",
        plan=PLAN_FILE,
        searched=done_of("search"),
    output:
        csv=report(
            f"{STORE}/tables/{EXPERIMENT}/search.csv",
            caption="../workflow/report/search_table.rst",
            category="Search study",
            labels={"item": "search study", "form": "table"},
        ),
        markdown=f"{STORE}/tables/{EXPERIMENT}/search.md",
    log:
        f"logs/tabulate_search/{EXPERIMENT}.log",
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


rule tabulate_search_summary:
    """Tabulate the algorithms of a study over its seeds, beside the evolutions."""
    input:
        script=f"{SCRIPTS}/tabulate_search_summary.py",
        plan=PLAN_FILE,
        table=f"{STORE}/tables/{EXPERIMENT}/search.csv",
    output:
        csv=report(
            f"{STORE}/tables/{EXPERIMENT}/search_summary.csv",
            caption="../workflow/report/search_summary_table.rst",
            category="Search study",
            labels={"item": "algorithms over seeds", "form": "table"},
        ),
        markdown=f"{STORE}/tables/{EXPERIMENT}/search_summary.md",
    log:
        f"logs/tabulate_search_summary/{EXPERIMENT}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        python=PYTHON,
    shell:
        "{params.python:q} {input.script:q}"
        " --plan {input.plan:q}"
        " --table {input.table:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule plot_search:
    """Plot held-out perplexity against scored tokens, by algorithm."""
    input:
        script=f"{SCRIPTS}/plot_search.py",
        plan=PLAN_FILE,
        table=f"{STORE}/tables/{EXPERIMENT}/search.csv",
    output:
        svg=report(
            f"{STORE}/figures/{EXPERIMENT}/search.svg",
            caption="../workflow/report/search_figure.rst",
            category="Search study",
            labels={"item": "search study", "form": "figure"},
        ),
        png=f"{STORE}/figures/{EXPERIMENT}/search.png",
    log:
        f"logs/plot_search/{EXPERIMENT}.log",
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


rule plot_search_convergence:
    """Plot the best perplexity so far against scored tokens, by algorithm over seeds."""
    input:
        script=f"{SCRIPTS}/plot_search_convergence.py",
        plan=PLAN_FILE,
        searched=done_of("search"),
    output:
        svg=report(
            f"{STORE}/figures/{EXPERIMENT}/search_convergence.svg",
            caption="../workflow/report/search_convergence_figure.rst",
            category="Search study",
            labels={"item": "algorithms over seeds", "form": "figure"},
        ),
        png=f"{STORE}/figures/{EXPERIMENT}/search_convergence.png",
    log:
        f"logs/plot_search_convergence/{EXPERIMENT}.log",
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
