"""Differences between the specifications of a planned and a finished node, in words. Pure.

A specification is the entry of a node in a plan file, or `node` in a manifest.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from longrope.plan.nodes import RawSpec, Spec

LONGEST_VALUE = 60
"""Characters of a setting's value that are shown."""


@dataclass(frozen=True)
class Difference:
    """One difference between two specifications."""

    about: str
    """setting, input, file, code or version"""
    text: str
    """the rest of the sentence"""
    key: str = ""
    """of an input: the node that is read now, if any"""


def differences(now: Spec, before: Spec) -> list[Difference]:
    """Return all changed components of a node's digest, settings first."""
    components = (_settings, _inputs, _files, _code, _versions)
    return [difference for compare in components for difference in compare(now, before)]


def only_code(changes: list[Difference]) -> bool:
    """Return whether only code differs, so that accepting the code brings the node back."""
    return {difference.about for difference in changes} == {"code"}


def code_name(spec: Spec) -> str:
    """Return the name of a node's code in `longrope accept`: `search`, `evaluate.passkey`."""
    suffixes = [str(module).rpartition(".")[2] for module in spec.get("modules", ())]
    return ".".join([str(spec["kind"]), *suffixes])


# Components of a digest ---------------------------------------------------------------------------


def _settings(now: Spec, before: Spec) -> Iterator[Difference]:
    new, old = dict(_flat(now["settings"])), dict(_flat(before.get("settings", {})))
    for name, change in _changes(new, old):
        yield Difference("setting", name + change)


def _inputs(now: Spec, before: Spec) -> Iterator[Difference]:
    new, old = now["inputs"], before.get("inputs", {})
    for role in _names(new, old):
        if new.get(role) != old.get(role):
            text = f"{role}: {_replaced(new.get(role), old.get(role))}"
            yield Difference("input", text, new.get(role, ""))


def _replaced(key: str | None, earlier: str | None) -> str:
    """Describe how an input changed, by the names of nodes without their digests."""
    name, before = ((text or "").rpartition("-")[0] for text in (key, earlier))
    if key is None:
        return f"{before} is not read any more"
    if earlier is None:
        return f"{name} is read now"
    return f"{name} is another one" if name == before else f"{name} instead of {before}"


def _files(now: Spec, before: Spec) -> Iterator[Difference]:
    for role in _names(now["raw"], before.get("raw", {})):
        new, old = (
            spec.get("raw", {}).get(role, RawSpec()).get("files", {}) for spec in (now, before)
        )
        for name in _names(new, old):
            if new.get(name) != old.get(name):
                yield Difference("file", f"{name} ({role}) {_fate(name, new, old)}")


def _fate(name: str, new: Mapping[str, object], old: Mapping[str, object]) -> str:
    if name in new and name in old:
        return "has other contents"
    return "is new" if name in new else "is gone"


def _code(now: Spec, before: Spec) -> Iterator[Difference]:
    if now["code"] == before.get("code"):
        return
    new, old = now.get("parts", {}), before.get("parts", {})
    changed = [
        f"{name} {_fate(name, new, old)}" if (name in new) != (name in old) else name
        for name in _names(new, old)
        if new.get(name) != old.get(name)
    ]
    # Manifests written before `parts` existed do not name the modules.
    yield Difference("code", f"changed: {', '.join(changed)}" if old and changed else "changed")


def _versions(now: Spec, before: Spec) -> Iterator[Difference]:
    for name, change in _changes(now.get("versions", {}), before.get("versions", {})):
        yield Difference("version", f"of {name}{change}")


# Words --------------------------------------------------------------------------------------------


def _changes(new: Mapping[str, object], old: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield each name whose value differs, and the words that follow it."""
    for name in _names(new, old):
        if name not in old:
            yield name, f" is new: {_shown(new[name])}"
        elif name not in new:
            yield name, f" is gone, it was {_shown(old[name])}"
        elif new[name] != old[name]:
            yield name, f": {_shown(old[name])} -> {_shown(new[name])}"


def _names(new: Mapping[str, object], old: Mapping[str, object]) -> list[str]:
    """Return the names of both in the order of the new, then those that are gone."""
    return [*new, *(name for name in old if name not in new)]


def _flat(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield dotted names and values; a list counts as one value unless it holds mappings."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{prefix}.{name}" if prefix else str(name))
    elif isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}.{index}")
    else:
        yield prefix, value


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
