"""Output of `longrope plan`: the nodes in the order of the stages, with their state."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from longrope.plan.history import code_name
from longrope.plan.nodes import KINDS, Node, Plan
from longrope.plan.status import STATES, NodeStatus

NodeStatuses = Mapping[str, NodeStatus]
Estimate = Callable[[Node], str]

_ROW = "{:>4}  {:8} {:>9} {:>9}  {:20} {}"


def no_estimate(node: Node) -> str:
    """Return no estimate for an unfinished node."""
    return ""


def list_nodes(
    plan: Plan, statuses: NodeStatuses, estimate: Estimate = no_estimate
) -> Iterator[str]:
    """Yield a line per node with its inputs by number, and the reasons under a stale one.

    Args:
        plan: the nodes.
        statuses: of each node, by its directory.
        estimate: text in the column of times for an unfinished node.
    """
    nodes = sorted(plan, key=lambda node: KINDS.index(node.kind))
    numbers = {node.key: number for number, node in enumerate(nodes, start=1)}
    places = {key: f" ({number}, {statuses[key].state})" for key, number in numbers.items()}
    yield _ROW.format("", "state", "size", "time", "reads", "node")
    kind = ""
    for node in nodes:
        if node.kind != kind:
            yield ""
        kind = node.kind
        reads = sorted(numbers[source.key] for source in node.inputs.values())
        yield _row(numbers[node.key], node, statuses[node.key], _ranges(reads), estimate)
        if statuses[node.key].state == "stale":
            for reason in _reasons(node, statuses[node.key], places):
                yield f"{'':6}{reason}"


def _row(number: int, node: Node, status: NodeStatus, reads: str, estimate: Estimate) -> str:
    if status.state != "done":
        return _ROW.format(number, status.state, "", estimate(node), reads, node.key)
    size, seconds = size_text(status.size), time_text(status.manifest.get("seconds"))
    return _ROW.format(number, "done", size, seconds, reads, node.key)


def _reasons(node: Node, status: NodeStatus, places: Mapping[str, str]) -> Iterator[str]:
    if not status.differences:
        yield "the manifest of the finished node does not tell what changed"
    for difference in status.differences:
        yield f"{difference.about} {difference.text}{places.get(difference.key, '')}"
        if difference.about == "code":
            old = status.manifest["node"].get("code")
            yield f"  if that alters no result: longrope accept {code_name(node.to_json())} {old}"


def list_origins(statuses: Collection[NodeStatus], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield which finished nodes other code or packages made, then how many nodes are finished."""
    finished = [status.manifest for status in statuses if status.state == "done"]
    commits = [_commit(manifest) for manifest in finished if "git" in manifest]
    others = Counter(commit for commit in commits if commit != _commit(now))
    if others:
        yield f"made at other commits: {_counted(others)} of {len(finished)} finished nodes"
    packages = Counter(name for manifest in finished for name in _other_packages(manifest, now))
    if packages:
        yield f"made with other packages: {_counted(packages)} of {len(finished)} finished nodes"
    states = Counter(status.state for status in statuses)
    counts = [f"{states[s]} {s}" for s in STATES[1:] if states[s] or s != "running"]
    yield f"{states['done']} of {len(statuses)} nodes done, {', '.join(counts)}"


def _commit(manifest: Mapping[str, Any]) -> str:
    git = manifest["git"]
    return f"{git['commit'][:7] or 'none'}{' with edits' if git['dirty'] else ''}"


def _other_packages(manifest: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    then = {"python": manifest.get("python"), **manifest.get("versions", {})}
    today = {"python": now["python"], **now["versions"]}
    for name, version in then.items():
        if version is not None and name in today and today[name] != version:
            yield f"{name} {version}"


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in names.most_common())


# Words --------------------------------------------------------------------------------------------


def size_text(size: float) -> str:
    """Return bytes in the decimal unit that leaves one to three digits before the point."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def time_text(seconds: float | None) -> str:
    """Return seconds in the unit that suits them, "" for None."""
    if seconds is None:
        return ""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


def _ranges(numbers: Iterable[int]) -> str:
    """Return sorted numbers with runs of three and more drawn together: `1, 4-6`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        elif not runs or number != runs[-1][-1]:
            runs.append([number])
    parts = [[f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run) for run in runs]
    return ", ".join(text for part in parts for text in part)
