"""Checks before anything is planned: surroundings in which jobs would run other code. No rule here."""

import os
from pathlib import Path

from snakemake.exceptions import WorkflowError

import longrope


def check_deployment():
    """Refuse deployment of software: rules call the interpreter that runs Snakemake, and would not use it."""
    methods = workflow.deployment_settings.deployment_method
    if methods:
        names = ", ".join(sorted(str(method) for method in methods))
        raise WorkflowError(
            f"software deployment ({names}) is not offered: jobs run the interpreter that runs Snakemake, so make the "
            "environment yourself, run snakemake in it, and leave out --software-deployment-method (--sdm), also "
            "in profiles."
        )


def check_braces():
    """Refuse a clone whose path Snakemake would take for a pattern with wildcards."""
    if set("{}") & set(str(workflow.basedir)):
        raise WorkflowError(
            f"the path of the clone, {workflow.basedir}, has a brace, which Snakemake takes for a wildcard in the paths "
            "of scripts and captions: move the clone to a path without braces."
        )


def check_checkout(folder, what):
    """Refuse a folder whose copy of the library is not the one that plans the run."""
    copy = Path(folder, "longrope", "__init__.py")
    library = Path(longrope.__file__)
    if copy.is_file() and not copy.samefile(library):
        raise WorkflowError(
            f"{what}, {folder}, holds another copy of longrope than the one that plans this run, {library.parent}: "
            "run snakemake in the clone whose code you mean, with no other one in PYTHONPATH, or give with -d a "
            "folder that holds no clone."
        )


def check_snakefile():
    """Refuse `-s workflow/Snakefile`, which puts everything that is relative to the Snakefile elsewhere."""
    if not Path(workflow.basedir, "rules", "checks.smk").is_file():
        clone = Path(longrope.__file__).resolve().parents[1]
        raise WorkflowError(
            f"the Snakefile to run is {clone / 'Snakefile'}: leave out --snakefile (-s) in the clone, or give that one."
        )


check_snakefile()
check_deployment()
check_braces()
check_checkout(workflow.basedir, "the folder of the Snakefile")
check_checkout(Path.cwd(), "the working directory")

# Jobs and scripts take the library that planned them, whichever one their interpreter has installed.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(workflow.basedir), os.environ.get("PYTHONPATH")])
)


envvars:
    "PYTHONPATH",
