"""Tests of the settings of nodes: hashing, parsing by a job, defaults that may not change."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from repository import ROOT

from longrope.plan import build as planning
from longrope.plan import nodes
from longrope.settings import loading
from longrope.settings.common import NOT_IN_DIGEST, UNLESS_DEFAULT, InDigest
from longrope.settings.nodes import NodeRuntime, SearchNode, parse_node
from longrope.settings.tasks import PerplexityTask
from longrope.store.identity import canonical

CONFIGS = sorted(path.name for path in (ROOT / "config").glob("*.yaml"))
CONFIGS.remove("hardware.yaml")


@pytest.mark.parametrize("name", CONFIGS)
def test_a_job_gets_the_settings_that_were_planned(name, tmp_path):
    plan = planning.build(loading.load(ROOT / "config" / name), ROOT)
    path = tmp_path / "plan.json"
    nodes.write_if_changed(plan, path)
    read = nodes.read(path)
    assert read.digest == plan.digest
    assert read.nodes.keys() == plan.nodes.keys()
    for key, parsed in read.nodes.items():
        planned = plan.nodes[key]
        assert parsed.digest == planned.digest
        assert parsed.settings.identity() == planned.settings.identity()
        assert parsed.runtime == planned.runtime


SEARCH: dict[str, Any] = {
    **{"model": "m", "original_length": 64, "source_length": 64, "target_length": 128},
    "attention_scale": "yarn",
}


@given(
    algorithm=st.sampled_from(["auto", "cma", "gradient", "evolution", "evolution-public"]),
    objective=st.sampled_from(["perplexity", "needle"]),
    num_documents=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_what_is_hashed_is_json_and_parses_back_to_the_same(
    algorithm, objective, num_documents, seed
):
    search = {"algorithm": algorithm, "objective": objective, "num_documents": num_documents}
    settings = SearchNode.model_validate({**SEARCH, "search": search, "seed": seed})
    hashed = settings.identity()
    assert json.loads(canonical(hashed)) == hashed
    parsed = parse_node("search", hashed)
    assert parsed.search.algorithm.identity() == settings.search.algorithm.identity()
    assert (parsed.search.objective, parsed.seed) == (objective, seed)


def test_a_setting_that_is_not_hashed_changes_no_identity():
    def identity(**algorithm: Any) -> dict[str, Any]:
        search = {"algorithm": {"name": "evolution", **algorithm}}
        return SearchNode.model_validate({**SEARCH, "search": search}).identity()

    assert identity(halve_above=7) == identity()
    assert identity(num_iterations=7) != identity()


def test_windows_without_a_stride_do_not_hash_one():
    asked = {"lengths": {"a": [64]}, "num_documents": {"a": 1}}
    window, sliding = (PerplexityTask(**asked, protocol=name) for name in ("window", "sliding"))
    assert "stride" not in window.identity() and sliding.identity()["stride"] == 256


def members(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """Return a model and all models within it."""
    if model not in seen:
        seen.add(model)
        waiting: list[Any] = [field.annotation for field in model.model_fields.values()]
        while waiting:
            annotation = waiting.pop()
            waiting += get_args(annotation)
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                members(annotation, seen)
    return seen


def marked(when: InDigest) -> dict[str, object]:
    """Return the fields of all nodes' settings that have a mark, with their defaults."""
    models: set[type[BaseModel]] = set()
    for kind in ("tokenize", "search", "readjust", "finetune", "evaluate"):
        members(parse_class(kind), models)
    return {
        f"{model.__name__}.{name}": field.get_default(call_default_factory=True)
        for model in models
        for name, field in model.model_fields.items()
        if when in field.metadata
    }


def parse_class(kind: str) -> type[BaseModel]:
    from longrope.settings.nodes import NODE_SETTINGS

    return NODE_SETTINGS[kind]


def test_defaults_that_are_left_out_of_digests_are_those_of_the_code_before_them():
    # A changed default here would give other results under the same digest.
    inner = {name.partition(".")[2]: value for name, value in marked(UNLESS_DEFAULT).items()}
    assert inner == {
        "attention_scales": None,
        "critical_dimension": None,
        "lora": None,
        "mixed_window": None,
        "num_held_out": None,
        "objective": "perplexity",
        "pack_documents": False,
        "position_skipping": False,
        "rope_scaling": "refuse",
        "seed": None,
        "share": None,
        "study": None,
    }


def test_what_is_left_out_of_digests_altogether_is_an_input_or_no_result():
    names = {name.partition(".")[2] for name in marked(NOT_IN_DIGEST)}
    assert names == {"documents", "halve_above", "methods", "truthfulqa_download"}


def test_runtime_settings_are_in_no_digest(tmp_path):
    plan = planning.build(loading.load(ROOT / "config/config.yaml"), ROOT)
    node = plan.of("finetune")[0]
    moved = nodes.Node(
        kind=node.kind,
        label=node.label,
        settings=node.settings,
        inputs=node.inputs,
        raw=node.raw,
        code=node.code,
        runtime=NodeRuntime(chunk_length=7),
    )
    assert moved.digest == node.digest
