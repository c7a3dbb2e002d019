"""Turn a study of searches into tables and figures.

Consumes  results/plans/{digest12}.json         the nodes, and what stands in for what
          results/search/{node}/                factors, histories and manifests
Produces  results/reports/{report}/tables/*.csv     search, search_summary; also as Markdown
          results/reports/{report}/figures/*.svg    search, search_convergence; also as PNG
"""


rule tabulate_search:
    """Tabulate what each search of a study found, by algorithm, length and seed."""
    input:
        searched=done_of("search"),
    output:
        csv=report(
            f"{TABLES}/search.csv",
            caption="../workflow/report/search_table.rst",
            category="Search study",
            labels={"item": "search study", "form": "table"},
        ),
        markdown=f"{TABLES}/search.md",
    log:
        f"logs/tabulate_search/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/tabulate_search.py",
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


rule tabulate_search_summary:
    """Tabulate the algorithms of a study over its seeds, beside the evolutions."""
    input:
        table=timeless([f"{TABLES}/search.csv"]),
    output:
        csv=report(
            f"{TABLES}/search_summary.csv",
            caption="../workflow/report/search_summary_table.rst",
            category="Search study",
            labels={"item": "algorithms over seeds", "form": "table"},
        ),
        markdown=f"{TABLES}/search_summary.md",
    log:
        f"logs/tabulate_search_summary/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/tabulate_search_summary.py",
        table=table_file("search"),
        plan=JOB_PLAN,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} {params.script:q}"
        " --plan {params.plan:q}"
        " --report {params.report:q}"
        " --table {params.table:q}"
        " --csv {output.csv:q}"
        " --markdown {output.markdown:q}"
        " > {log:q} 2>&1"


rule plot_search:
    """Plot held-out perplexity against scored tokens, by algorithm."""
    input:
        table=timeless([f"{TABLES}/search.csv"]),
    output:
        svg=report(
            f"{FIGURES}/search.svg",
            caption="../workflow/report/search_figure.rst",
            category="Search study",
            labels={"item": "search study", "form": "figure"},
        ),
        png=f"{FIGURES}/search.png",
    log:
        f"logs/plot_search/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_search.py",
        table=table_file("search"),
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


rule plot_search_convergence:
    """Plot the best perplexity so far against scored tokens, by algorithm over seeds."""
    input:
        searched=done_of("search"),
    output:
        svg=report(
            f"{FIGURES}/search_convergence.svg",
            caption="../workflow/report/search_convergence_figure.rst",
            category="Search study",
            labels={"item": "algorithms over seeds", "form": "figure"},
        ),
        png=f"{FIGURES}/search_convergence.png",
    log:
        f"logs/plot_search_convergence/{REPORT_NAME}.log",
    localrule: True
    conda:
        "../workflow/envs/longrope.yaml"
    params:
        script=f"{SCRIPTS}/plot_search_convergence.py",
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
