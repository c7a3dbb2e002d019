"""Tests of a plan as a value: writing and reading, and evaluations grouped for jobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node_settings import node_settings
from repository import ROOT

from longrope.plan import build as plan
from longrope.plan import nodes
from longrope.plan.nodes import Node, Plan, Raw
from longrope.settings import loading as configuration
from longrope.settings.nodes import NodeRuntime, TokenizeNode

SETTINGS = {
    "search": node_settings("search", {}),
    "evaluate": node_settings("evaluate", {"task": "passkey", "lengths": [64]}),
}


def evaluation(name: str, *inputs: Node) -> Node:
    """Return an evaluation of some inputs."""
    sources = {f"input-{index}": node for index, node in enumerate(inputs)}
    return Node(kind="evaluate", label=name, settings=SETTINGS["evaluate"], inputs=sources)


def plan_of(evaluations: list[Node], size: int) -> Plan:
    named = {f"evaluate/{node.label}": node for node in evaluations}
    return Plan(experiment="small", nodes=named, evaluations_per_job=size)


# Reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", sorted(path.name for path in (ROOT / "config").glob("*-*.yaml")))
def test_a_written_plan_is_read_as_it_was(tmp_path, config):
    written = plan.build(configuration.load(ROOT / "config" / config), ROOT)
    nodes.write_if_changed(written, tmp_path / "plan.json")
    read = nodes.read(tmp_path / "plan.json")
    assert read.digest == written.digest
    assert {node.key: node.digest for node in read} == {node.key: node.digest for node in written}


def test_raw_files_and_versions_survive_a_file(tmp_path):
    node = Node(
        kind="tokenize",
        label="own",
        settings=TokenizeNode(),
        raw={"documents": Raw("texts", {"a.txt": "0" * 64})},
        versions={"tokenizers": "0.23"},
        runtime=NodeRuntime(chunk_length=8),
    )
    nodes.write_if_changed(Plan("small", {"tokenize/own": node}), tmp_path / "plan.json")
    assert list(nodes.read(tmp_path / "plan.json")) == [node]


def test_versions_are_part_of_a_digest_only_if_there_are_any():
    plain = Node(kind="search", label="a", settings=SETTINGS["search"])
    assert (
        Node(kind="search", label="a", settings=SETTINGS["search"], versions={}).digest
        == plain.digest
    )
    digests = {
        Node(
            kind="search", label="a", settings=SETTINGS["search"], versions={"torch": version}
        ).digest
        for version in ("2.13.0", "2.14.1")
    }
    assert len(digests | {plain.digest}) == 3


# Batches ------------------------------------------------------------------------------------------


def test_evaluations_of_the_same_inputs_share_jobs_of_the_given_size():
    tokens = Node(kind="tokenize", label="books", settings=TokenizeNode())
    factors = Node(kind="search", label="longer", settings=SETTINGS["search"])
    alike = [evaluation(name, tokens) for name in "abc"]
    other = evaluation("d", tokens, factors)
    batches = plan_of([*alike[:2], other, alike[2]], 2).evaluation_batches()
    assert batches == [alike[:2], alike[2:], [other]]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 7))
def test_every_evaluation_is_in_one_batch_with_others_of_its_inputs(choices, size):
    sources = [
        Node(kind="search", label=str(index), settings=SETTINGS["search"]) for index in range(4)
    ]
    made = [evaluation(f"e{index}", sources[choice]) for index, choice in enumerate(choices)]
    batches = plan_of(made, size).evaluation_batches()
    assert sorted(node.label for batch in batches for node in batch) == sorted(
        node.label for node in made
    )
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len({node.inputs["input-0"].key for node in batch}) == 1
