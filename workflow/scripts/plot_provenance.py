"""Write one page that holds the graph of the nodes and, per table and figure, what made them.

The page is whole in itself: no script, no style sheet and no picture from elsewhere.
"""

from collections.abc import Collection, Iterator, Sequence
from html import escape
from pathlib import Path

import arguments
from pictures import svg_of

from longrope.reports.dag import colour, kind_graph, node_graph, words
from longrope.reports.lineage import (
    COLUMNS,
    Product,
    Row,
    finished,
    is_mixed,
    made_sentence,
    provenance,
    values_of,
)
from longrope.plan.nodes import KINDS, Plan
from longrope.reports.results import model_note, nodes_of, read_plan, store_of
from longrope.store.atomic import write_text

SHOWN = COLUMNS[1:]
"""A heading already says which table or figure it is."""
STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2em; color: #222 }
.picture { overflow: auto; margin: 1em 0 }
.picture svg { max-width: 100%; height: auto }
.warning { background: #fff0d0; border-left: 4px solid #d55e00; padding: .6em 1em }
details { margin: .8em 0; overflow: auto }
summary { cursor: pointer }
table { border-collapse: collapse; font-size: 13px; margin: .6em 0 }
th, td { border-bottom: 1px solid #ddd; padding: .15em .6em; text-align: left; white-space: nowrap }
.other { background: #ffd9c2; font-weight: bold }
"""
MIXED = (
    "Not all nodes were made by the same commit and the same packages. A node's digest covers the code"
    " that computed it, so several commits need not matter; versions of packages are part of it only"
    " where the configuration asks for that."
)
NO_DRAWING = "This machine has no graphviz, so the graph stands here as a list: each node with what it reads."


def page(plan: Plan, store: Path) -> str:
    """Return the page as HTML."""
    title = f"{plan.experiment}: where the numbers come from"
    products = provenance(plan, store)
    done = finished(plan, store)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(model_note(plan))}</p>",
        *warnings(products),
        *graph_section(plan, done),
        "<h2>Tables and figures</h2>",
        *(part for product, rows in products for part in product_section(product, rows)),
    ]
    head = f'<meta charset="utf-8"/><title>{escape(title)}</title><style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def warnings(products: Sequence[tuple[Product, Sequence[Row]]]) -> Iterator[str]:
    """Yield a box that names every product whose nodes were made by different code or packages."""
    items = [
        f"<li><b>{escape(product.name)}</b>: {escape(made_sentence(rows, product))}</li>"
        for product, rows in products
        if is_mixed(rows, product)
    ]
    if items:
        yield f'<div class="warning"><p>{MIXED}</p><ul>{"".join(items)}</ul></div>'


def graph_section(plan: Plan, done: Collection[str]) -> Iterator[str]:
    """Yield the graphs of kinds and of nodes, or a list where they cannot be drawn."""
    yield "<h2>The graph</h2>"
    drawings = [svg_of(graph(plan, done)) for graph in (kind_graph, node_graph)]
    if None in drawings:
        yield f"<p>{NO_DRAWING}</p>"
        yield from node_list(plan, done)
        return
    yield "<p>Rest the pointer on a box for its directory, on an arrow for what is read.</p>"
    for drawing in drawings:
        yield f'<div class="picture">{drawing}</div>'


def node_list(plan: Plan, done: Collection[str]) -> Iterator[str]:
    """Yield the graph as nested lists: kinds, their nodes, and what each node reads."""
    yield "<ul>"
    for kind in KINDS:
        nodes = nodes_of(plan, kind)
        if nodes:
            yield f"<li>{escape(kind)}<ul>"
        for node in nodes:
            state = "" if node.key in done else " (not computed yet)"
            read = ", ".join(f"{role} from {source.key}" for role, source in node.inputs.items())
            text = f"{', '.join(words(node))} ({node.key}){state}: reads {read or 'no other node'}"
            yield f"<li>{escape(text)}</li>"
        if nodes:
            yield "</ul></li>"
    yield "</ul>"


def product_section(product: Product, rows: Sequence[Row]) -> Iterator[str]:
    """Yield a table or figure's name, the sentence on what made it, and a row per node."""
    summary = f"<b>{escape(product.name)}</b> ({escape(product.form)}), {len(rows)} nodes"
    sentence = made_sentence(rows, product) or "No manifest says what made it."
    yield f"<details><summary>{summary}. {escape(sentence)}</summary><table>"
    yield f"<tr>{''.join(f'<th>{escape(column)}</th>' for column in SHOWN)}</tr>"
    usual = {column: next(iter(values_of(rows, column))) for column in product.watched}
    for row in rows:
        cells = [cell(row, column, usual.get(column)) for column in SHOWN]
        yield f'<tr style="background: {colour(row["kind"])}55">{"".join(cells)}</tr>'
    yield "</table></details>"


def cell(row: Row, column: str, usual: str | None) -> str:
    """Return one cell; a commit or version that is not the most frequent one is marked."""
    value = "" if row[column] is None else str(row[column])
    opening = '<td class="other">' if usual not in (None, value) else "<td>"
    return f"{opening}{escape(value)}</td>"


if __name__ == "__main__":
    paths = arguments.parse()
    write_text(paths.html, page(read_plan(paths.plan), store_of(paths.plan)))
