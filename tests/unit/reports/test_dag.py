"""Pictures of a plan: every node and every arrow is in them, under a name that a person can read."""

import importlib
import json
import re
import shutil
import subprocess
import sys

import pytest
from node_settings import node_settings
from repository import ROOT
from small_store import SmallStore

from longrope.plan import build as planning
from longrope.plan.nodes import KINDS, Node
from longrope.reports import dag
from longrope.settings import loading as configuration
from longrope.settings.nodes import TokenizeNode
from longrope.store.files import RawFiles

GRAPHVIZ = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "workflow" / "scripts"))
    return importlib.import_module("plot_dag")


@pytest.fixture
def store(tmp_path):
    return SmallStore(tmp_path)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The plan of the demo."""
    files = RawFiles(tmp_path_factory.mktemp("files") / "known")
    settings = configuration.load(ROOT / "config" / "config.yaml")
    return planning.build(settings, ROOT, files)


def box(graph, name):
    (match,) = (box for box in graph.boxes if box.name == name)
    return match


def arrows(graph):
    return {(arrow.source, arrow.target) for arrow in graph.arrows}


# The graphs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "label", "lines"),
    [
        ("fetch", "pg19-test", ("pg19-test",)),
        ("tokenize", "m-7b-pg19-test", ("m-7b-pg19-test",)),
        ("search", "m-7b-8192", ("m-7b 8192",)),
        ("search", "m-7b-ft2048-8192", ("m-7b 8192", "tuned at 2048")),
        ("finetune", "m-7b-2048", ("m-7b 2048",)),
        ("readjust", "m-7b-ft2048", ("m-7b", "tuned at 2048")),
    ],
)
def test_a_label_is_put_in_words(kind, label, lines):
    assert dag.words(Node(kind, label, TokenizeNode())) == lines


def test_an_evaluation_is_called_by_task_variant_and_method():
    settings = {"task": "perplexity", "variant": "base", "method": "dynamic_ntk"}
    node = Node("evaluate", "any", node_settings("evaluate", settings))
    assert dag.words(node) == ("perplexity", "base, dynamic_ntk")


def test_the_graph_of_the_demo_has_every_node_and_every_input_once(demo):
    graph = dag.node_graph(demo, ())
    nodes = demo.by_key
    assert sorted(box.name for box in graph.boxes) == sorted(nodes)
    assert len(graph.arrows) == len(arrows(graph))
    assert arrows(graph) == {
        (source.key, key) for key, node in nodes.items() for source in node.inputs.values()
    }


def test_no_two_nodes_of_the_demo_look_alike_and_none_shows_its_digest(demo):
    shown = [box.lines for box in dag.node_graph(demo, ()).boxes]
    assert len(set(shown)) == len(shown)
    assert not re.search(r"[0-9a-f]{12}", str(shown))


def test_what_is_done_is_told_apart_and_counted(store):
    done = {store.upstream["fetch"], store.perplexity}
    graph = dag.node_graph(store.plan, done)
    assert {box.name for box in graph.boxes if box.done} == done
    assert graph.title == "e: 7 nodes, 5 of them not computed yet (dashed)"
    assert dag.node_graph(store.plan, store.nodes).title == "e: 7 nodes, all computed"


def test_a_node_that_is_read_twice_has_one_arrow_that_says_only_what_surprises(store):
    tuned = store.add("finetune", "m-512", model=store.upstream["search"])
    inputs = {"factors-0": tuned, "model": tuned, "tokens": store.upstream["tokens"]}
    readjusted = store.add("readjust", "m-ft512", **inputs)
    arrows = {a.source: a for a in dag.node_graph(store.plan, ()).arrows if a.target == readjusted}
    assert arrows[tuned].roles == ("factors-0", "model")
    assert arrows[tuned].label == "factors-0"
    assert arrows[store.upstream["tokens"]].label == ""


def test_the_graph_of_kinds_counts_their_nodes_and_leads_to_tables_and_figures(store):
    graph = dag.kind_graph(store.plan, {store.upstream["fetch"]})
    assert box(graph, "fetch").lines == ("fetch", "2 nodes, 1 done")
    assert box(graph, "search").lines == ("search", "1 node, 0 done")
    assert box(graph, "product/perplexity").lines == ("perplexity", "table and figure")
    assert {name for name, to in arrows(graph) if to == "product/convergence"} == {"search"}
    assert {name for name, to in arrows(graph) if to == "search"} == {"base model", "tokenize"}
    assert {name for name, to in arrows(graph) if to == "evaluate"} == {
        *("fetch", "tokenize", "search")
    }


def test_files_of_the_working_directory_are_not_shown_as_a_dot(store):
    assert box(dag.kind_graph(store.plan, ()), ".").lines == ("files", "working directory")


def test_every_kind_of_node_has_a_colour_of_its_own():
    assert set(KINDS) < dag.COLOURS.keys()
    assert len(set(dag.COLOURS.values())) == len(dag.COLOURS)


# As text ------------------------------------------------------------------------------------------


def small_graph(label="a"):
    boxes = (
        dag.Box("x", "fetch", ("fetch", label), done=True, hint="where x is"),
        dag.Box("y", "search", ("search", "b"), done=False),
    )
    return dag.Graph("two", boxes, (dag.Arrow("x", "y", ("odd",), "odd"), dag.Arrow("y", "y")))


def test_dot_text_of_two_boxes_has_its_hand_written_lines():
    lines = [line.strip() for line in dag.to_dot(small_graph('say "a\\b"')).splitlines()]
    assert lines[0] == 'digraph "two" {'
    assert lines[-6:] == [
        '"x" [label="fetch\\nsay \\"a\\\\b\\"", fillcolor="#d9d9d9", style="filled,rounded",'
        ' tooltip="where x is"]',
        '{rank=same; "x"}',
        '"y" [label="search\\nb", fillcolor="#fbdfae", style="filled,rounded,dashed",'
        ' fontcolor="#555555", tooltip="y"]',
        '"x" -> "y" [label="odd", edgetooltip="x -> y as odd", labeltooltip="x -> y as odd",'
        ' color="#cccccc"]',
        '"y" -> "y" [label="", edgetooltip="y -> y", labeltooltip="y -> y"]',
        "}",
    ]


def test_mermaid_text_of_two_boxes_has_its_hand_written_lines():
    text = dag.to_mermaid(small_graph('<a> "b" # c'))
    lines = text.splitlines()
    assert lines[:8] == [
        "---",
        'title: "two"',
        "---",
        "flowchart LR",
        '  n0("fetch<br/>#60;a#62; #34;b#34; #35; c"):::fetch',
        '  n1("search<br/>b"):::search',
        '  n0 -->|"odd"| n1',
        "  n1 --> n1",
    ]
    assert lines[-1] == "  class n1 missing"
    assert "  classDef search fill:#fbdfae,stroke:#333" in lines


@pytest.mark.parametrize("view", [dag.node_graph, dag.kind_graph])
def test_mermaid_draws_every_box_and_every_arrow(demo, view):
    graph = view(demo, ())
    text = dag.to_mermaid(graph)
    assert len(re.findall(r"^ +n\d+\(", text, re.MULTILINE)) == len(graph.boxes)
    assert text.count("-->") == len(graph.arrows)
    assert text.count("subgraph") == text.count("  end\n")


@GRAPHVIZ
@pytest.mark.parametrize("view", [dag.node_graph, dag.kind_graph])
def test_graphviz_reads_what_we_wrote(demo, view):
    graph = view(demo, list(demo.by_key)[:9])
    drawn = json.loads(
        subprocess.run(
            ["dot", "-Tjson0"],
            input=dag.to_dot(graph),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    boxes = [item for item in drawn["objects"] if "nodes" not in item]
    assert {item["name"]: item["label"] for item in boxes} == {
        box.name: "\\n".join(box.lines) for box in graph.boxes
    }
    names = {item["_gvid"]: item["name"] for item in drawn["objects"]}
    assert {(names[edge["tail"]], names[edge["head"]]) for edge in drawn["edges"]} == arrows(graph)


# make dag -----------------------------------------------------------------------------------------


def test_without_graphviz_both_pictures_are_written_for_mermaid_before_any_run(
    script, demo, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    sentence = script.plot(demo, tmp_path)
    assert "no graphviz" in sentence and sentence.count(".") >= 2
    folder = tmp_path / "by-name" / "demo"
    assert {path.name for path in folder.iterdir()} == {"dag.mmd", "rulegraph.mmd"}
    assert re.search(r"^  class n0,n1,.* missing$", (folder / "dag.mmd").read_text(), re.MULTILINE)


@GRAPHVIZ
def test_with_graphviz_both_pictures_are_drawn_before_any_run_and_after(script, store):
    folder = store.folder / "by-name" / "e"
    script.plot(store.plan, store.folder.parent / "nothing here")
    script.plot(store.plan, store.folder)
    assert {path.name for path in folder.iterdir()} == {"dag.svg", "rulegraph.svg"}
    assert "all computed" in (folder / "dag.svg").read_text()
    before = store.folder.parent / "nothing here" / "by-name" / "e" / "dag.svg"
    assert "7 of them not computed yet" in before.read_text()


def test_a_graphviz_that_fails_is_as_good_as_none(script, store, tmp_path, monkeypatch, capsys):
    broken = tmp_path / "bin" / "dot"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no fonts >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(broken.parent))
    script.plot(store.plan, store.folder)
    assert (store.folder / "by-name" / "e" / "dag.mmd").is_file()
    assert "no fonts" in capsys.readouterr().err


def test_a_configuration_that_is_not_there_is_refused_in_one_sentence(tmp_path):
    command = [sys.executable, ROOT / "workflow" / "scripts" / "plot_dag.py", "--config", "no.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("longrope: error: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
