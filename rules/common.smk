"""Nouns of the workflow: the plan, its nodes, and where things are. No rule and no computation here."""

import os
import sys
import time
import uuid
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from longrope.settings import loading as configuration
from longrope.cost import estimate as cost
from longrope.plan import nodes
from longrope.reports import places, products
from longrope.plan import build as planning
from longrope.errors import UserError, refusals_explained
from longrope.settings.hardware import read_machine
from longrope.cost.shapes import Shape
from longrope.store.files import RawFiles

PYTHON = sys.executable
WORKFLOW = f"{workflow.basedir}/workflow"
SCRIPTS = f"{WORKFLOW}/scripts"
HARDWARE = f"{workflow.basedir}/config/hardware.yaml"


def build_plan():
    """Return the plan of the configuration, and its store; a user's mistake ends in one sentence."""
    source = ", ".join(map(str, workflow.overwrite_configfiles)) or "config/config.yaml"
    try:
        with refusals_explained():
            # Snakemake itself takes the last of a key that a file gives twice.
            for path in workflow.overwrite_configfiles:
                configuration.read_mapping(Path(path))
            settings = configuration.parse(dict(config), source=source)
            files = RawFiles(Path(settings.results, ".raw-files.json"))
            plan = planning.build(settings, Path.cwd(), files)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    for warning in plan.warnings:
        logger.warning(warning)
    return plan, settings.results


def submitted_plan():
    """Return the plan that this process is a job of, and its store; None in the process that a user started.

    A queued job must not follow a configuration that was edited after it was submitted.
    """
    path = Path(os.environ.get("LONGROPE_PLAN", ""))
    if workflow.is_main_process or not path.is_file():
        return None
    return nodes.read(path), str(path.parent.parent)


def write_plan():
    """Write the plan for the jobs, as the last that ran of its experiment, and beside its tables.

    `longrope gc` reads the last two. Called when a run starts, never in a dry run.
    """
    try:
        for path in (
            JOB_PLAN,
            f"{STORE}/plans/{EXPERIMENT}.json",
            f"{REPORT}/plan.json",
        ):
            nodes.write_if_changed(PLAN, Path(path))
    except OSError as error:
        raise WorkflowError(
            f"the plan cannot be written: {error}; `{STORE}` must be writable."
        ) from None


def chosen_machine():
    """Return the machine that jobs ask for."""
    try:
        return read_machine(PLAN.hardware, Path(HARDWARE))
    except UserError as error:
        raise WorkflowError(str(error)) from None


PLAN, STORE = submitted_plan() or build_plan()
EXPERIMENT = PLAN.experiment
SHAPE = Shape.of(PLAN.shape)
MACHINE = chosen_machine()
JOB_PLAN = f"{STORE}/plans/{PLAN.digest[:12]}.json"
REPORT_NAME = places.report_name(PLAN, Path(WORKFLOW), Path(HARDWARE))
REPORT = f"{STORE}/reports/{REPORT_NAME}"
TABLES = f"{REPORT}/tables"
FIGURES = f"{REPORT}/figures"
os.environ["LONGROPE_PLAN"] = JOB_PLAN
# Jupyter's own backend, which its terminals hand down, need not be installed here.
os.environ["MPLBACKEND"] = "agg"
# Compute nodes may have no network, and must not need it: downloads are local rules.
if workflow.remote_exec:
    for library in ("HF_HUB", "HF_DATASETS", "TRANSFORMERS"):
        os.environ[f"{library}_OFFLINE"] = "1"


envvars:
    "LONGROPE_PLAN",
    "MPLBACKEND",


wildcard_constraints:
    node=r"[^/]+-[0-9a-f]{12}",
    token=r"[0-9a-f]{8}",


def interpreter(wildcards):
    """Return the interpreter that runs Snakemake; a text with a brace would be taken for a wildcard."""
    return PYTHON


def results_folder(wildcards):
    """Return the store; as text Snakemake's linter would take it for the beginning of an output's path."""
    return STORE


def report_folder(wildcards):
    """Return the folder of the tables and figures of this plan."""
    return REPORT


def node_of(kind, name):
    """Return the node of one kind with a directory name."""
    node = PLAN.by_key.get(f"{kind}/{name}")
    if node is None:
        raise WorkflowError(
            f"{STORE}/{kind}/{name} is no node of this configuration; `longrope plan` lists them."
        )
    return node


def inputs_of(kind):
    """Return the function that names the finished inputs of a node of one kind."""

    def inputs(wildcards):
        return inputs_of_all([node_of(kind, wildcards.node)])

    return inputs


def inputs_of_all(some_nodes):
    """Return the finished inputs of nodes; none for nodes that are there.

    What is there is never made again because of its inputs. Snakemake needs not to see them: given a
    node that is made and one behind it that is there, it forgets the missing ones behind both.
    """
    if all(Path(STORE, node.key, "DONE").is_file() for node in some_nodes):
        return []
    keys = {source.key for node in some_nodes for source in node.inputs.values()}
    return timeless(f"{STORE}/{key}/DONE" for key in sorted(keys))


def timeless(paths):
    """Return files as inputs whose times decide nothing.

    Those dated in the future are left out: Snakemake refuses an output that is older than an input.
    """
    now = time.time()
    return [
        ancient(path)
        for path in paths
        if not Path(path).exists() or Path(path).stat().st_mtime <= now
    ]


def asks(kind, what):
    """Return the function that says what the job of a node of one kind asks for at an attempt."""

    def asked(wildcards, attempt):
        return asks_together([node_of(kind, wildcards.node)], what)(wildcards, attempt)

    return asked


def asks_by_worker(kind, what):
    """Return the function that says what a job asks for whose threads are workers: one GPU each."""

    def asked(wildcards, attempt, threads):
        one = asks(kind, what)(wildcards, attempt)
        if what == "gres":
            return f"gpu:{threads}" if one else ""
        return one * threads

    return asked


def limit_of_workers(wildcards, resources):
    """Return the option that limits the time of a worker, for a job that has a limit."""
    seconds = resources.worker_timeout
    return f" --worker-timeout {seconds}" if seconds else ""


def asks_together(some_nodes, what):
    """Return the function that says what a job of several nodes asks for at an attempt."""

    def asked(wildcards, attempt):
        each = [cost.requirements(node, SHAPE, MACHINE, attempt) for node in some_nodes]
        needs = cost.together(each)
        gpus = needs.gpus_per_node
        return {
            "gres": f"gpu:{gpus}" if gpus else "",
            "nodes": needs.nodes,
            # a core for each process
            "threads": max(1, gpus),
            # left out on one node: the key alone makes a job of several tasks of it
            "mpi": "srun" if needs.nodes > 1 else None,
            "mem_mb": needs.mem_mb,
            "runtime": needs.runtime_minutes,
        }[what]

    return asked


def done_of(some_nodes):
    """Return the marks of finished nodes, for a rule that reads them."""
    return timeless(f"{STORE}/{node.key}/DONE" for node in some_nodes)


def read_by(product, form):
    """Return the inputs of a product in one form: finished nodes, or the table that it is made of."""
    if product is products.PROVENANCE:
        # A table made again may have been made of other nodes.
        return [*done_of(PLAN), *timeless(tables_and_figures())]
    tables = product.tables_read(form)
    if tables:
        return timeless(f"{TABLES}/{name}.csv" for name in tables)
    return done_of(filter(product.reads, PLAN))


def tables_and_figures():
    """Return every table and figure of the registry that the configuration has nodes for."""
    files = {"table": (TABLES, "csv"), "figure": (FIGURES, "svg")}
    return [
        f"{folder}/{product.name}.{suffix}"
        for form, (folder, suffix) in files.items()
        for product in products.PRODUCTS
        if form in product.forms and any(map(product.reads, PLAN))
    ]


def human_names():
    """Return the mark of links that lead to this plan's results; nothing where they lead there.

    Links are shared by all plans of an experiment. The mark has a name that is never there, so that
    going back to an earlier plan links its results again and makes nothing else.
    """
    if places.links_lead_to(PLAN, Path(STORE), REPORT_NAME):
        return []
    return [f"{STORE}/.work/named/{REPORT_NAME}.{uuid.uuid4().hex[:8]}"]
