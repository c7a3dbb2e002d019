"""CONTRIBUTING's rows on how to add a value, each followed literally in a copy of the package."""

import textwrap

import pytest
import workflow_runs
import yaml
from additions import Addition
from repository import ROOT

from longrope.cost.estimate import estimate
from longrope.cost.shapes import Shape
from longrope.plan import build
from longrope.reports.results import corpus_stand_in
from longrope.rope.factors import RopeFactors
from longrope.settings import loading
from longrope.settings.hardware import read_machine


@pytest.fixture
def copy(tmp_path):
    return Addition(tmp_path)


def test_a_method_is_one_row_of_one_file(copy):
    copy.edit(
        "longrope/rope/methods.py",
        '    "linear": RopeMethod(linear, "linear (PI)"),\n',
        '    "linear": RopeMethod(linear, "linear (PI)"),\n'
        '    "half": RopeMethod(lambda g, s: linear(g, max(1.0, s / 2)), "half", yarn_attention_scale),\n',
    )
    assert copy.takes("a method") == 1
    seen = copy.run(
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
    assert seen["nodes"] == ["tiny-llama-perplexity-base-half"]
    assert seen["schema"] and seen["order"] == 1
    assert seen["factors"] == [2.0, 2.0]
    assert seen["scale"] == pytest.approx(0)


def test_a_search_algorithm_is_its_settings_and_its_module(copy):
    path = "longrope/settings/algorithms.py"
    copy.edit(
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
    copy.edit(path, "    AutoSettings |", "    SeedsSettings | AutoSettings |")
    copy.create(
        "longrope/search/algorithms/seeds.py",
        '''\
            """The best of the seeds."""

            from longrope.search.algorithms.script import Scripted


            class Seeds(Scripted):
                """Scores all seeds on all documents."""

                def __init__(self, problem, settings, num_documents, seed):
                    super().__init__(problem.space, problem.seeds, num_documents, seed)

                def _script(self):
                    return (yield from self.pick({s: n for n, s in self.seeds.items()}, self.documents))


            make = Seeds
            ''',
    )
    assert copy.takes("a search algorithm") == 2
    seen = copy.run(
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
        least = min(searches.SEEDS.values(), key=lambda individual: searches.hill(individual, 0))
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
    assert seen["algorithm"] == {"name": "seeds", "rounds": 1}
    assert seen["module"] and seen["schema"] and seen["best"]
    # three seeds, and the result without start tokens
    assert seen["tokens"] == (3 + 1) * seen["documents"] * 1024


CORPUS = """
  letters:
    source: {kind: local, files: {test: [letters.txt]}}
    stand_in: letters in a row
    licence: public domain
"""


def test_a_corpus_is_an_entry_of_a_configuration(copy):
    path = "config/config.yaml"
    copy.edit(path, "\ncorpora:\n", f"\ncorpora:{CORPUS}")
    assert copy.takes("a corpus of the hub, or local") == 1
    (copy.root / "letters.txt").write_text("a b c " * 1000)
    (copy.root / "resources").symlink_to(ROOT / "resources")
    config = yaml.safe_load((copy.root / path).read_text())
    corpora = {"letters": {"corpus": "letters", "split": "test"}}
    task = {"corpora": corpora, "lengths": {"letters": [512]}, "num_documents": {"letters": 1}}
    config["evaluate"]["perplexity"] = task | {"methods": ["ntk"]}
    plan = build.build(loading.parse(config, source="toy"), copy.root)
    assert list(plan.nodes["tokenize/tiny-llama-letters-test"].raw["documents"].files) == [
        "letters.txt"
    ]
    node = plan.nodes["evaluate/tiny-llama-perplexity-base-ntk"]
    assert corpus_stand_in(plan, node, "letters") == "letters in a row"
    shape = Shape.of(plan.shape)
    assert shape is not None
    assert estimate(node, shape, read_machine("cpu", ROOT / "config/hardware.yaml")).tokens == 512


FORMAT = """

def _read_dashed(path: Path, text: str, facts: StatedFacts) -> tuple[Fields, list[str]]:
    del facts
    return {"factors": [float(word) for word in text.split("-")]}, []


def _dashed_text(factors: RopeFactors, short: RopeFactors | None) -> tuple[str, list[str]]:
    return "-".join(map(repr, factors.factors)), []


FORMATS["dashed"] = Format(read=_read_dashed, write=_dashed_text)
"""


def test_a_format_of_factors_is_a_reader_a_writer_and_their_row_in_one_file(copy):
    copy.append("longrope/rope/formats.py", FORMAT)
    assert copy.takes("a format of factors") == 1
    (copy.root / "in.csv").write_text("1.0\n2.5\n")
    lengths = ("--original-length", 4, "--target-length", 8)
    for verb in (
        ("in.csv", "out.dashed", "--to", "dashed", *lengths),
        ("out.dashed", "out.json", "--from", "dashed", *lengths),
    ):
        done = workflow_runs.longrope(copy.root, "factors", "convert", *verb, code=copy.root)
        assert done.returncode == 0, done.stderr
    assert (copy.root / "out.dashed").read_text() == "1.0-2.5"
    assert RopeFactors.read(copy.root / "out.json").factors == (1.0, 2.5)
    done = workflow_runs.longrope(copy.root, "factors", "convert", "--help", code=copy.root)
    assert "dashed" in done.stdout
