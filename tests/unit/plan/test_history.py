"""Tests of the differences between two specifications: all are named, and nothing else."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.plan.history import code_name, differences, only_code

SPEC: dict[str, Any] = {
    "kind": "evaluate",
    "label": "tiny-passkey",
    "settings": {"seed": 0, "budget": {"size": 64, "steps": [1, 2]}, "task": "passkey"},
    "inputs": {"model": "finetune/tiny-1024-aaaaaaaaaaaa"},
    "raw": {"tokenizer": {"path": "model", "files": {"tokenizer.json": "11", "config.json": "22"}}},
    "code": "0" * 16,
    "modules": ["longrope.tasks.passkey"],
    "parts": {"longrope.stages.evaluate": "1", "longrope.tasks.passkey": "2"},
    "versions": {"torch": "2.12.0"},
    "runtime": {"chunk_length": 4096},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """Return the specification with one value replaced, or removed if it is `...`."""
    spec = copy.deepcopy(SPEC)
    *folders, name = path.split("/")
    parent = spec
    for folder in folders:
        parent = parent[folder]
    if value is ...:
        del parent[name]
    else:
        parent[name] = value
    return spec


def said(now: dict[str, Any], before: dict[str, Any] = SPEC) -> list[str]:
    """Return the differences as they are printed."""
    return [f"{each.about} {each.text}" for each in differences(now, before)]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("settings/seed", 1, "setting seed: 0 -> 1"),
        ("settings/budget/size", 32, "setting budget.size: 64 -> 32"),
        ("settings/budget/steps", [1], "setting budget.steps: [1, 2] -> [1]"),
        ("settings/budget/late", True, "setting budget.late is new: true"),
        ("settings/seed", ..., "setting seed is gone, it was 0"),
        ("settings/task", "long " * 20, f"setting task: passkey -> {'long ' * 12}..."),
        (
            "inputs/model",
            "finetune/tiny-1024-bbbbbbbbbbbb",
            "input model: finetune/tiny-1024 is another one",
        ),
        (
            "inputs/model",
            "fetch/tiny-bbbbbbbbbbbb",
            "input model: fetch/tiny instead of finetune/tiny-1024",
        ),
        ("inputs/table", "search/t-bbbbbbbbbbbb", "input table: search/t is read now"),
        ("inputs/model", ..., "input model: finetune/tiny-1024 is not read any more"),
        (
            "raw/tokenizer/files/tokenizer.json",
            "12",
            "file tokenizer.json (tokenizer) has other contents",
        ),
        ("raw/tokenizer/files/new.json", "12", "file new.json (tokenizer) is new"),
        ("raw/tokenizer/files/config.json", ..., "file config.json (tokenizer) is gone"),
        ("versions/torch", "2.13.0", "version of torch: 2.12.0 -> 2.13.0"),
        ("versions/numpy", "2.4.0", "version of numpy is new: 2.4.0"),
    ],
)
def test_a_change_is_named_with_what_it_was_and_is(path, value, sentence):
    assert said(changed(path, value)) == [sentence]


def test_a_mapping_inside_a_list_is_named_by_its_place():
    before = changed("settings/documents", [{"name": "a", "sha256": "1"}, {"name": "b"}])
    now = changed("settings/documents", [{"name": "a", "sha256": "2"}, {"name": "b"}])
    assert said(now, before) == ["setting documents.0.sha256: 1 -> 2"]


def test_code_is_named_by_its_modules():
    now = changed("code", "1" * 16)
    now["parts"] = {"longrope.stages.evaluate": "9", "longrope.rope.factors": "3"}
    assert said(now) == [
        "code changed: longrope.stages.evaluate, longrope.rope.factors is new, "
        "longrope.tasks.passkey is gone"
    ]


def test_code_of_a_manifest_without_parts_is_only_said_to_have_changed():
    before = changed("parts", ...)
    assert said(changed("code", "1" * 16), before) == ["code changed"]


def test_modules_that_changed_under_the_same_code_are_not_a_difference():
    # accepted code keeps its identity, though the modules are others
    assert said(changed("parts/longrope.tasks.passkey", "3")) == []


def test_what_is_not_in_the_digest_is_not_a_difference():
    now = changed("runtime/chunk_length", 1)
    now["label"], now["raw"]["tokenizer"]["path"] = "other", "elsewhere"
    assert differences(now, SPEC) == []


CHANGES = {
    "setting": ("settings/seed", 5),
    "input": ("inputs/model", "fetch/x-cccccccccccc"),
    "file": ("raw/tokenizer/files/config.json", "5"),
    "code": ("code", "5" * 16),
    "version": ("versions/torch", "5"),
}


@given(st.sets(st.sampled_from(sorted(CHANGES))))
def test_several_changes_are_all_named(kinds):
    now = copy.deepcopy(SPEC)
    for kind in kinds:
        path, value = CHANGES[kind]
        top = path.split("/")[0]
        now[top] = changed(path, value)[top]
    reported = differences(now, SPEC)
    assert sorted(difference.about for difference in reported) == sorted(kinds)
    assert only_code(reported) == (kinds == {"code"})


@pytest.mark.parametrize(
    ("kind", "modules", "name"),
    [
        ("search", [], "search"),
        ("evaluate", ["longrope.tasks.passkey"], "evaluate.passkey"),
        ("fetch", ["longrope.data.multiple_choice_items"], "fetch.multiple_choice_items"),
    ],
)
def test_code_has_the_name_of_its_kind_and_its_own_modules(kind, modules, name):
    assert code_name({"kind": kind, "modules": modules}) == name
