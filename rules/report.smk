"""Turn the results of an experiment into tables and figures, those of `longrope.reports.products`.

Consumes  results/plans/{digest12}.json         the nodes, and what stands in for what
          results/{kind}/{node}/                scores, factors, histories and manifests
Produces  results/reports/{report}/tables/*.csv     the table of each product; also as Markdown
          results/reports/{report}/figures/*.svg    the figure of each product; also as PNG
          results/reports/{report}/tables/provenance.csv     which nodes made each table, and what made them
          results/reports/{report}/figures/provenance.html   the same as a page, with the graph of the nodes
"""

for product in products.BY_NAME.values():
    if product.table:

        rule:
            """Make the table of one product."""
            name:
                f"tabulate_{product.name}"
            input:
                read_by(product, "table"),
            output:
                csv=report(
                    f"{TABLES}/{product.name}.csv",
                    caption=f"../workflow/report/{product.name}_table.rst",
                    category=product.category,
                    labels={"item": product.item, "form": "table"},
                ),
                markdown=f"{TABLES}/{product.name}.md",
            log:
                f"logs/tabulate_{product.name}/{REPORT_NAME}.log",
            localrule: True
            conda:
                "../workflow/envs/longrope.yaml"
            params:
                script=f"{SCRIPTS}/tabulate.py",
                product=product.name,
                plan=JOB_PLAN,
                report=report_folder,
                python=interpreter,
            shell:
                "{params.python:q} {params.script:q}"
                " --product {params.product:q}"
                " --plan {params.plan:q}"
                " --report {params.report:q}"
                " --csv {output.csv:q}"
                " --markdown {output.markdown:q}"
                " > {log:q} 2>&1"

    if product.figure:

        rule:
            """Draw the figure of one product."""
            name:
                f"plot_{product.name}"
            input:
                read_by(product, "figure"),
            output:
                svg=report(
                    f"{FIGURES}/{product.name}.svg",
                    caption=f"../workflow/report/{product.name}_figure.rst",
                    category=product.category,
                    labels={"item": product.item, "form": "figure"},
                ),
                png=f"{FIGURES}/{product.name}.png",
            log:
                f"logs/plot_{product.name}/{REPORT_NAME}.log",
            localrule: True
            conda:
                "../workflow/envs/longrope.yaml"
            params:
                script=f"{SCRIPTS}/draw.py",
                product=product.name,
                plan=JOB_PLAN,
                report=report_folder,
                python=interpreter,
            shell:
                "{params.python:q} {params.script:q}"
                " --product {params.product:q}"
                " --plan {params.plan:q}"
                " --report {params.report:q}"
                " --svg {output.svg:q}"
                " --png {output.png:q}"
                " > {log:q} 2>&1"


rule plot_provenance:
    """Write the page with the graph of all nodes and the origin of each table and figure."""
    input:
        read_by(products.PROVENANCE, "page"),
    output:
        html=report(
            f"{FIGURES}/provenance.html",
            caption="../workflow/report/provenance_page.rst",
            category=products.PROVENANCE.category,
            labels={"item": products.PROVENANCE.item, "form": "page"},
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
        nodes=done_of(PLAN),
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
        store=results_folder,
        report=report_folder,
        python=interpreter,
    shell:
        "{params.python:q} -m longrope names"
        " {params.plan:q}"
        " --store {params.store:q}"
        " --report {params.report:q}"
        " > {log:q} 2>&1"
