"""LongRoPE: from a pretrained model with a short window to an extended one, its tables and its figures."""

from snakemake.utils import min_version

min_version("9.0")

# A configuration given on the command line replaces the default one instead of being laid over it.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "rules/checks.smk"
include: "rules/common.smk"
include: "rules/launch.smk"


for kind in nodes.KINDS:

    include: f"rules/{kind}.smk"


include: "rules/report.smk"


localrules:
    all,


rule all:
    """Every table and figure of the experiment, and its results under human names."""
    default_target: True
    input:
        tables_and_figures(),
        f"{TABLES}/provenance.csv",
        f"{FIGURES}/provenance.html",
        human_names(),
