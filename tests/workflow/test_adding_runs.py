"""CONTRIBUTING's rows on how to add something that is run: each followed literally in a copy, and run."""

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import workflow_runs
from additions import Addition
from repository import ROOT

from longrope.data.token_store import TokenStore

PERSIMMON = """
    "persimmon": Architecture(
        (
            Matrix("self_attn.query_key_value", ("hidden",) * 3, "hidden", True),
            Matrix("self_attn.dense", ("hidden",), "hidden", True),
            Matrix("mlp.dense_h_to_4h", ("inner",), "hidden", True),
            Matrix("mlp.dense_4h_to_h", ("hidden",), "inner", True),
        ),
        final_norm="final_layernorm",
        norm_bias=True,
        head_norms=("self_attn.q_layernorm", "self_attn.k_layernorm"),
        grouped=False,
        partial_rotary_factor=0.5,
    ),
"""


def test_an_architecture_with_quirks_is_one_row_and_the_model_tests_take_it(tmp_path):
    copy = Addition(tmp_path)
    table = "\nARCHITECTURES = {"
    copy.edit("longrope/architectures.py", table, table + PERSIMMON.rstrip())
    assert copy.takes("an architecture") == 1
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = ("data/test_model_folder.py", "models/test_models.py", "models/test_scoring.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "persimmon"),
            *(f"tests/unit/{name}" for name in files),
        ],
        cwd=tmp_path,
        env=workflow_runs.environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    # tensors beside transformers' own, loading, saving, and losses in chunks of several lengths
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 20


COUNT_STAGE = '''
    """Count the tokens of a store."""

    import json

    from longrope.data.token_store import TokenStore


    def run(settings, inputs, out, runtime):
        """Write their number."""
        count = int(TokenStore(inputs["tokens"].path).lengths.sum())
        (out / "count.json").write_text(json.dumps({settings.unit: count}))
'''
COUNT_NODE = '''class CountNode(Settings):
    """The number of tokens of a store."""

    unit: str = "tokens"


NodeSettings = CountNode | '''
COUNT_PLAN = """
    def _add_counts(self) -> None:
        for node in [node for node in self.nodes.values() if node.kind == "tokenize"]:
            self._add("count", node.label, CountNode(), {"tokens": node})

    def _add(
"""


def add_kind(copy: Addition) -> None:
    nodes, build = "longrope/settings/nodes.py", "longrope/plan/build.py"
    copy.edit(nodes, "NodeSettings = ", COUNT_NODE)
    copy.edit(
        nodes,
        '    "tokenize": TokenizeNode,\n',
        '    "tokenize": TokenizeNode,\n    "count": CountNode,\n',
    )
    copy.create("longrope/stages/count.py", COUNT_STAGE)
    copy.edit(build, "import (\n    EvaluateNode,", "import (\n    CountNode,\n    EvaluateNode,")
    copy.edit(build, "\n    def _add(\n", COUNT_PLAN)
    copy.edit(
        build,
        "        self._add_evaluations(table)\n",
        "        self._add_evaluations(table)\n        self._add_counts()\n",
    )
    rule = (ROOT / "rules/tokenize.smk").read_text().replace("tokenize_corpus", "count_tokens")
    copy.create("rules/count.smk", rule.replace("tokenize", "count"))


STAIRS_SETTINGS = '''class StairsSettings(PlannedTask):
    """Loss of token ids that rise by one."""

    draws = False
    module = "stairs"
    name: Literal["stairs"] = Field("stairs", description="this task")
    lengths: list[Tokens] = Field(description="steps of the stairs")

    @property
    def base_methods(self) -> list[Method]:
        """The pretrained embedding alone."""
        return ["none"]

    def passes(self, method: str) -> list[Passes]:
        """Return a pass per length."""
        return [Passes(1, length, length) for length in self.lengths]


Task = Annotated[StairsSettings | '''
STAIRS_TASK = '''
    """Loss of token ids that rise by one."""

    import torch

    from longrope.models.scoring import token_nlls


    def evaluate(evaluated, settings, inputs, runtime):
        """Return a row per length."""
        rows = []
        for length in settings.task.lengths:
            nlls = token_nlls(evaluated.model, torch.arange(length), factors=evaluated.factors_at(length))
            rows.append({"length": length, "nll": float(nlls.mean())})
        return rows
'''
STAIRS_PRODUCT = """
    Product(
        name="stairs",
        category="Stairs",
        item="loss on stairs",
        kinds=("evaluate",),
        task="stairs",
        table="stairs.table",
        figure="stairs.figure",
    ),
"""
STAIRS_FUNCTIONS = '''
    """Loss of token ids that rise by one, as a table and as a figure."""

    import pandas as pd

    from longrope.reports.results import evaluations
    from longrope.reports.tables import finished_table


    def table(results):
        """Return a row per variant and length."""
        scored = evaluations(results, "stairs")
        rows = [{"variant": s["variant"], **row} for _, s in scored for row in s["rows"]]
        return pd.DataFrame(rows, columns=["variant", "length", "nll"])


    def figure(results):
        """Draw the loss by length."""
        from longrope.reports.figures import style

        figure, (axes,) = style.panels(1)
        axes.plot(finished_table(results, "stairs")["nll"])
        return style.finish(figure, "Stairs", "")
'''


def add_product(copy: Addition) -> None:
    products = "longrope/reports/products.py"
    copy.edit(products, "\nPRODUCTS = (", f"\nPRODUCTS = ({STAIRS_PRODUCT.rstrip()}")
    copy.create("longrope/reports/stairs.py", STAIRS_FUNCTIONS)
    for form in ("table", "figure"):
        copy.create(f"workflow/report/stairs_{form}.rst", f"The stairs as a {form}.")


def add_task(copy: Addition) -> None:
    tasks = "longrope/settings/tasks.py"
    copy.edit(tasks, "Task = Annotated[", STAIRS_SETTINGS)
    member = "    passkey: PasskeySettings | None = "
    copy.edit(tasks, member, f"    stairs: StairsSettings | None = None\n{member}")
    copy.create("longrope/tasks/stairs.py", STAIRS_TASK)


@dataclass
class Grown:
    """A copy with a kind of node and a task with its table and figure, after a run of it."""

    folder: Path
    code: Path
    files: dict[str, int]
    """row of CONTRIBUTING -> files that were changed"""

    def table(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a finished table."""
        with (self.folder / "results/tables/grown" / f"{name}.csv").open() as lines:
            return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def grown(finished, tmp_path_factory):
    copy, files = Addition(tmp_path_factory.mktemp("code")), {}
    add_kind(copy)
    files["a kind of node"] = copy.takes("a kind of node")
    copy.changed.clear()
    add_product(copy)
    files["a table or figure"] = copy.takes("a table or figure")
    add_task(copy)
    files["a task"] = copy.takes("a task")

    def edit(settings):
        settings["experiment"] = "grown"
        settings["evaluate"]["stairs"] = {"lengths": [32, 200]}

    workflow_runs.change(finished, "grown.yaml", edit)
    for arguments in ((), ("--report", finished / "grown.html")):
        done = workflow_runs.run(finished, "grown.yaml", *arguments, code=copy.root)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return Grown(finished, copy.root, files)


def listing(grown: Grown) -> str:
    done = workflow_runs.longrope(grown.folder, "plan", "grown.yaml", code=grown.code)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.workflow
def test_a_kind_of_node_is_its_settings_its_stage_its_nodes_and_its_rule(grown):
    assert grown.files["a kind of node"] == 4
    labels = [f"random-llama-words-{split}" for split in ("test", "train", "validation")]
    rows = [row for row in grown.table("cost") if row["kind"] == "count"]
    assert [row["label"] for row in rows] == labels
    for row, split in zip(rows, ("test", "train", "validation"), strict=True):
        stored = json.loads((grown.folder / "results" / row["node"] / "count.json").read_text())
        (tokens,) = grown.folder.glob(f"results/tokenize/random-llama-words-{split}-*")
        assert stored == {"tokens": int(TokenStore(tokens).lengths.sum())}
    assert len(re.findall(r"\bcount/random-llama-words-\w+", listing(grown))) == 3
    behind = [row for row in grown.table("provenance") if row["kind"] == "count"]
    assert {(row["table"], row["label"]) for row in behind} == {("cost", label) for label in labels}
    assert (grown.folder / "results/by-name/grown/count").is_dir()
    page = (grown.folder / "results/figures/grown/provenance.html").read_text()
    assert "count/random-llama-words-test" in page


@pytest.mark.workflow
def test_a_table_with_its_figure_is_one_row_its_functions_and_their_captions(grown):
    assert grown.files["a table or figure"] == 2
    figures = grown.folder / "results/figures/grown"
    assert "Stairs" in (figures / "stairs.svg").read_text() and (figures / "stairs.png").is_file()
    report = (grown.folder / "grown.html").read_text()
    assert all(f"The stairs as a {form}." in report for form in ("table", "figure"))
    assert [
        r for r in grown.table("provenance") if (r["table"], r["kind"]) == ("stairs", "evaluate")
    ]


@pytest.mark.workflow
def test_a_task_is_its_settings_its_module_and_its_table(grown):
    assert grown.files["a task"] == 4
    rows = grown.table("stairs")
    cells = [(row["variant"], int(row["length"])) for row in rows]
    assert cells == [("base", 32), ("base", 200), ("tuned", 32), ("tuned", 200)]
    # a random model guesses about as well as chance among 400 tokens
    assert all(0.5 * math.log(400) < float(row["nll"]) < 20 for row in rows)
    label = "random-llama-stairs-base-none"
    assert f"evaluate/{label}" in listing(grown)
    (cost,) = [row for row in grown.table("cost") if row["label"] == label]
    assert int(cost["estimated_tokens"]) == 32 + 200
    done = workflow_runs.longrope(grown.folder, "estimate", "grown.yaml", code=grown.code)
    assert label in done.stdout, done.stderr
