"""CONTRIBUTING's rows on how to add something, followed literally in a copy of the package."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import workflow_runs
from repository import HELPERS, ROOT


@pytest.fixture
def package(tmp_path):
    """A copy of the package that may be edited."""
    shutil.copytree(
        ROOT / "longrope", tmp_path / "longrope", ignore=shutil.ignore_patterns("__pycache__")
    )
    return tmp_path / "longrope"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, f"{path.name} has {text.count(old)} times {old!r}"
    path.write_text(text.replace(old, new))


def run(package: Path, script: str) -> dict:
    """Run Python code with the copy, at the repository's root; return what it printed last as JSON."""
    paths = os.pathsep.join([str(package.parent), str(HELPERS)])
    done = subprocess.run(
        # without the working directory in the path, which has a package of its own
        [sys.executable, "-P", "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_method_is_one_row_of_one_file(package):
    edit(
        package / "rope" / "methods.py",
        '    "linear": RopeMethod(linear, "linear (PI)"),\n',
        '    "linear": RopeMethod(linear, "linear (PI)"),\n'
        '    "half": RopeMethod(lambda g, s: linear(g, max(1.0, s / 2)), "half", yarn_attention_scale),\n',
    )
    facts = run(
        package,
        """
        import json, math, yaml
        from longrope.plan import build
        from longrope.reports.tables import METHOD_ORDER
        from longrope.rope.methods import Geometry, closed_form
        from longrope.settings import loading, schema
        from pathlib import Path
        config = yaml.safe_load(Path("config/config.yaml").read_text())
        config["evaluate"]["perplexity"]["methods"] = ["half"]
        plan = build.build(loading.parse(config, source="toy"), Path.cwd())
        factors = closed_form("half", Geometry(num_pairs=2, rope_theta=1e4, original_length=256), 1024)
        print(json.dumps({
            "nodes": [n.label for n in plan.of("evaluate") if "half" in n.label],
            "schema": "half" in schema.schema_text(),
            "order": METHOD_ORDER.index("half") - METHOD_ORDER.index("linear"),
            "factors": factors.factors,
            "scale": factors.attention_scale - (0.1 * math.log(4) + 1),
        }))
        """,
    )
    assert facts["nodes"] == ["tiny-llama-perplexity-base-half"]
    assert facts["schema"] and facts["order"] == 1
    assert facts["factors"] == [2.0, 2.0]
    assert facts["scale"] == pytest.approx(0)


def test_a_search_algorithm_is_its_settings_and_its_module(package):
    path = package / "settings" / "algorithms.py"
    edit(
        path,
        "Algorithm = Annotated[\n",
        textwrap.dedent(
            '''\
            class SeedsSettings(AlgorithmSettings):
                """The best of the seeds."""

                module = "seeds"
                name: Literal["seeds"] = Field("seeds", description="this algorithm")
                rounds: int = Field(1, description="times that all seeds are scored")

                def max_scorings(self, num_documents: int, num_start_tokens: int) -> int:
                    """Return the seeds, each on all documents."""
                    return self.rounds * CLOSED_FORMS * num_documents


            Algorithm = Annotated[
            '''
        ),
    )
    edit(path, "    AutoSettings |", "    SeedsSettings | AutoSettings |")
    (package / "search" / "algorithms" / "seeds.py").write_text(
        textwrap.dedent(
            '''\
            """The best of the seeds."""

            from longrope.search.algorithms.script import Scripted


            class Seeds(Scripted):
                """Scores all seeds on all documents."""

                def __init__(self, problem, settings, num_documents, seed):
                    self.num_candidates = len(problem.seeds)
                    super().__init__(problem.space, problem.seeds, num_documents, seed)

                def _script(self):
                    return (yield from self.pick({s: n for n, s in self.seeds.items()}, self.documents))


            make = Seeds
            '''
        )
    )
    facts = run(
        package,
        """
        import json, yaml
        from pathlib import Path
        import searches
        from longrope.cost.estimate import estimate
        from longrope.cost.shapes import Shape
        from longrope.plan import build
        from longrope.search.algorithms import registry
        from longrope.settings import loading, schema
        from longrope.settings.hardware import read_machine
        from longrope.settings.search import SearchMethod
        config = yaml.safe_load(Path("config/config.yaml").read_text())
        config["search"]["algorithm"] = "seeds"
        plan = build.build(loading.parse(config, source="toy"), Path.cwd())
        node = plan.nodes["search/tiny-llama-1024"]
        cpu = read_machine("cpu", Path("config/hardware.yaml"))
        settings = SearchMethod.model_validate({"algorithm": "seeds"}).algorithm
        made = registry.make(searches.PROBLEM, settings, num_documents=3, seed=0)
        searches.run(made, searches.hill)
        least = min(searches.SEEDS.values(), key=lambda one: searches.hill(one, 0))
        print(json.dumps({
            "algorithm": node.settings.identity()["search"]["algorithm"],
            "module": "longrope.search.algorithms.seeds" in node.parts,
            "tokens": estimate(node, Shape.of(plan.shape), cpu).tokens,
            "documents": node.settings.search.num_documents,
            "schema": "times that all seeds are scored" in schema.readme_text(),
            "best": made.best.individual == least,
        }))
        """,
    )
    assert facts["algorithm"] == {"name": "seeds", "rounds": 1}
    assert facts["module"] and facts["schema"] and facts["best"]
    # three seeds, and the result without start tokens
    assert facts["tokens"] == (3 + 1) * facts["documents"] * 1024


TOY = """
    Product(
        name="toy",
        category="Toys",
        item="number of a toy",
        kinds=("evaluate",),
        task="passkey",
        table="toys.table",
        figure="toys.figure",
    ),
"""
TOYS = """
import pandas as pd

from longrope.reports.figures import style
from longrope.reports.results import evaluations
from longrope.reports.tables import finished_table


def table(results):
    scored = evaluations(results, "passkey")
    return pd.DataFrame({"method": [scores["method"] for _, scores in scored], "toys": 2})


def figure(results):
    figure, (axes,) = style.panels(1)
    axes.plot(finished_table(results, "toy")["toys"])
    return style.finish(figure, "Toys", "")
"""


@pytest.mark.workflow
def test_a_table_with_its_figure_is_one_row_its_functions_and_their_captions(finished, tmp_path):
    code = workflow_runs.clone(tmp_path)
    edit(code / "longrope/reports/products.py", "\nPRODUCTS = (", f"\nPRODUCTS = ({TOY.rstrip()}")
    (code / "longrope/reports/toys.py").write_text(TOYS)
    for form in ("table", "figure"):
        (code / f"workflow/report/toy_{form}.rst").write_text(f"The toys as a {form}.")
    for arguments in ((), ("--report", finished / "toys.html")):
        done = workflow_runs.run(finished, "small.yaml", *arguments, code=code)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tables, figures = (finished / "results" / part / "small" for part in ("tables", "figures"))
    assert (tables / "toy.csv").read_text() == "method,toys\nnone,2\nlongrope,2\n"
    assert "Toys" in (figures / "toy.svg").read_text() and (figures / "toy.png").is_file()
    assert "\ntoy,evaluate," in (tables / "provenance.csv").read_text()
    report = (finished / "toys.html").read_text()
    assert all(f"The toys as a {form}." in report for form in ("table", "figure"))
