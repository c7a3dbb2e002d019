"""Pictures of a plan as text: the graph of its nodes and that of its kinds, for graphviz or Mermaid.

Nothing here draws, reads or writes. A picture needs a plan file alone; the finished nodes are an argument.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from longrope.plan.nodes import KINDS, Node, Plan
from longrope.reports.lineage import products_of
from longrope.reports.results import nodes_of
from longrope.settings.nodes import EvaluateNode

COLOURS = {
    "files": "#e8e8e8",
    "fetch": "#d9d9d9",
    "tokenize": "#cce5f6",
    "search": "#fbdfae",
    "finetune": "#f6c9ae",
    "readjust": "#f3d5e6",
    "evaluate": "#c3e8da",
    "product": "#ffffff",
}
"""One colour per kind, pale enough for black text; tables and figures are products."""
OTHER_COLOUR = "#e4dcf1"
"""of kinds that have none in the table"""
MISSING = 'style="filled,rounded,dashed", fontcolor="#555555"'
PALE = ("files", "fetch")
"""Kinds whose arrows are drawn pale: a model that all nodes read would hide the others."""
UNSAID = {
    "fetch": "documents|items|model|tokenizer",
    "tokenize": "tokens",
    "search": "factors",
    "finetune": "model",
    "readjust": "table",
}
"""Kind of a source -> beginnings of the roles that go without saying."""
HERE = "working directory"
ALIGNED = ("fetch", "tokenize", "evaluate")
"""Kinds whose nodes stand in one column; the others alternate."""


@dataclass(frozen=True)
class Box:
    """One node, one kind, or one table or figure."""

    name: str
    kind: str
    lines: tuple[str, ...]
    done: bool
    hint: str = ""
    """shown when the pointer rests on it"""


@dataclass(frozen=True)
class Arrow:
    """A read of one box by another, with its roles."""

    source: str
    target: str
    roles: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Graph:
    """A picture, read from left to right."""

    title: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def colour(kind: str) -> str:
    """Return the colour of a kind, whether it has one of its own or not."""
    return COLOURS.get(kind, OTHER_COLOUR)


# The two graphs ---------------------------------------------------------------------------------


def node_graph(plan: Plan, done: Collection[str]) -> Graph:
    """Return the graph of all nodes; `done` holds the keys of those that are."""
    nodes = [node for kind in KINDS for node in nodes_of(plan, kind)]
    boxes = [_node_box(node, node.key in done) for node in nodes]
    arrows = [arrow for node in nodes for arrow in _arrows_into(node)]
    return Graph(_title(plan, done), tuple(boxes), tuple(arrows))


def _title(plan: Plan, done: Collection[str]) -> str:
    missing = len(plan.by_key.keys() - set(done))
    state = f"{missing} of them not computed yet (dashed)" if missing else "all computed"
    return f"{plan.experiment}: {len(plan.by_key)} nodes, {state}"


def _node_box(node: Node, done: bool) -> Box:
    files = sorted({raw.path for raw in node.raw.values()})
    hint = " ".join([node.key, *(f"reads {path}" for path in files)])
    return Box(node.key, node.kind, (node.kind, *words(node)), done, hint)


def words(node: Node) -> tuple[str, ...]:
    """Describe a node in one or two lines, without its digest."""
    label, settings = node.label, node.settings
    if isinstance(settings, EvaluateNode):
        return settings.task.name, f"{settings.variant}, {settings.method}"
    if node.kind not in ("search", "finetune", "readjust"):
        return (label,)
    parts = re.fullmatch(r"(.+?)(?:-ft(\d+))?(?:-(\d+))?(?:-(seed\d+))?", label)
    assert parts is not None
    model, tuned, length, seed = parts.groups()
    first = " ".join(part for part in (model, length, seed) if part)
    return (first, f"tuned at {tuned}") if tuned else (first,)


def _arrows_into(node: Node) -> Iterator[Arrow]:
    """Yield one arrow per node that is read, however many roles it has."""
    for source in {source.key: source for source in node.inputs.values()}.values():
        roles = tuple(role for role, read in node.inputs.items() if read.key == source.key)
        unsaid = UNSAID.get(source.kind, "$")
        label = ", ".join(role for role in roles if not re.match(unsaid, role))
        yield Arrow(source.key, node.key, roles, label)


def kind_graph(plan: Plan, done: Collection[str]) -> Graph:
    """Return the graph of the kinds with their numbers of nodes, and of the tables and figures."""
    kinds = [kind for kind in KINDS if nodes_of(plan, kind)]
    files = sorted({raw.path for node in plan for raw in node.raw.values()})
    boxes = [
        Box(path, "files", ("files", HERE if path == "." else path), done=True) for path in files
    ]
    boxes += [_kind_box(plan, kind, done) for kind in kinds]
    boxes += [
        Box(f"product/{made.name}", "product", (made.name, made.form), done=True)
        for made in products_of(plan)
    ]
    return Graph(_title(plan, done), tuple(boxes), tuple(dict.fromkeys(_kind_arrows(plan))))


def _kind_box(plan: Plan, kind: str, done: Collection[str]) -> Box:
    nodes = nodes_of(plan, kind)
    num_done = sum(node.key in done for node in nodes)
    count = "1 node" if len(nodes) == 1 else f"{len(nodes)} nodes"
    return Box(kind, kind, (kind, f"{count}, {num_done} done"), num_done == len(nodes))


def _kind_arrows(plan: Plan) -> Iterator[Arrow]:
    """Yield an arrow per use; those between the same two kinds are alike."""
    for node in plan:
        for raw in node.raw.values():
            yield Arrow(raw.path, node.kind)
        for source in node.inputs.values():
            yield Arrow(source.kind, node.kind)
        for made in products_of(plan):
            if made.reads(node):
                yield Arrow(node.kind, f"product/{made.name}")


# As text ----------------------------------------------------------------------------------------


def to_dot(graph: Graph) -> str:
    """Return a graph in the language of graphviz."""
    lines = [
        f"digraph {_dot(graph.title)} {{",
        f'  graph [rankdir=LR, label={_dot(graph.title)}, labelloc=t, fontname="sans-serif",',
        "         fontsize=16, nodesep=0.12, ranksep=0.9]",
        '  node [shape=box, style="filled,rounded", fontname="sans-serif", fontsize=11]',
        '  edge [color="#777777", fontname="sans-serif", fontsize=9, arrowsize=0.6]',
    ]
    for kind, boxes in _by_kind(graph):
        lines += [_dot_box(box) for box in boxes]
        if kind in ALIGNED:
            lines.append(f"  {{rank=same; {'; '.join(_dot(box.name) for box in boxes)}}}")
    pale = {box.name for box in graph.boxes if box.kind in PALE}
    lines += [_dot_arrow(arrow, arrow.source in pale) for arrow in graph.arrows]
    return "\n".join([*lines, "}"]) + "\n"


def _by_kind(graph: Graph) -> list[tuple[str, list[Box]]]:
    groups = [(kind, [box for box in graph.boxes if box.kind == kind]) for kind in _colours(graph)]
    return [(kind, boxes) for kind, boxes in groups if boxes]


def _colours(graph: Graph) -> dict[str, str]:
    """Return the colour of each kind, those without one of their own last."""
    others = {box.kind: OTHER_COLOUR for box in graph.boxes if box.kind not in COLOURS}
    return COLOURS | others


def _dot(text: str) -> str:
    """Return a quoted string of the dot language; a line break in it is a centred line's end."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _dot_box(box: Box) -> str:
    style = 'style="filled,rounded"' if box.done else MISSING
    return (
        f"  {_dot(box.name)} [label={_dot(chr(10).join(box.lines))},"
        f' fillcolor="{colour(box.kind)}", {style}, tooltip={_dot(box.hint or box.name)}]'
    )


def _dot_arrow(arrow: Arrow, pale: bool) -> str:
    hint = f"{arrow.source} -> {arrow.target}" + f" as {', '.join(arrow.roles)}" * bool(arrow.roles)
    colour = ', color="#cccccc"' * pale
    return (
        f"  {_dot(arrow.source)} -> {_dot(arrow.target)}"
        f" [label={_dot(arrow.label)}, edgetooltip={_dot(hint)}, labeltooltip={_dot(hint)}{colour}]"
    )


def to_mermaid(graph: Graph) -> str:
    """Return a graph in the language of Mermaid, which GitHub and many editors draw."""
    numbers = {box.name: f"n{index}" for index, box in enumerate(graph.boxes)}
    lines = ["---", f"title: {json.dumps(graph.title)}", "---", "flowchart LR"]
    for kind, boxes in _by_kind(graph):
        inside = [_mermaid_box(numbers[box.name], box) for box in boxes]
        framed = kind in ALIGNED and len(boxes) > 1
        frame = [f"  subgraph {kind}", *inside, "  end", f"  style {kind} fill:none,stroke:#ccc"]
        lines += frame if framed else inside
    lines += [_mermaid_arrow(numbers, arrow) for arrow in graph.arrows]
    colours = _colours(graph)
    lines += [f"  classDef {kind} fill:{colour},stroke:#333" for kind, colour in colours.items()]
    lines.append("  classDef missing color:#555,stroke-dasharray:5")
    missing = ",".join(numbers[box.name] for box in graph.boxes if not box.done)
    lines += [f"  class {missing} missing"] * bool(missing)
    return "\n".join(lines) + "\n"


def _mermaid_box(number: str, box: Box) -> str:
    label = "<br/>".join(map(_mermaid, box.lines))
    return f'  {number}("{label}"):::{box.kind}'


def _mermaid_arrow(numbers: Mapping[str, str], arrow: Arrow) -> str:
    label = f'|"{_mermaid(arrow.label)}"|' if arrow.label else ""
    return f"  {numbers[arrow.source]} -->{label} {numbers[arrow.target]}"


def _mermaid(text: str) -> str:
    """Escape the characters that Mermaid or HTML would interpret."""
    return re.sub(r"[^\w ,.:/+-]", lambda match: f"#{ord(match[0])};", text)
