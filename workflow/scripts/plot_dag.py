"""Draw the nodes and the kinds of a configuration's plan, before a run, during it or after it.

Graphviz draws SVG where it is installed; elsewhere the same pictures are written for Mermaid.
"""

import sys
from pathlib import Path

import arguments
from pictures import svg_of
from print_report_folder import planned

from longrope.reports.dag import kind_graph, node_graph, to_mermaid
from longrope.errors import UserError
from longrope.plan.nodes import Plan
from longrope.reports.lineage import finished
from longrope.store.atomic import write_text


def plot(plan: Plan, store: Path) -> str:
    """Write both pictures beside the links of the experiment; return a sentence on them."""
    folder = store / "by-name" / plan.experiment
    folder.mkdir(parents=True, exist_ok=True)
    done = finished(plan, store)
    graphs = {"dag": node_graph(plan, done), "rulegraph": kind_graph(plan, done)}
    drawn = {name: svg_of(graph) for name, graph in graphs.items()}
    for name, graph in graphs.items():
        svg = drawn[name]
        if svg is None:
            write_text(folder / f"{name}.mmd", to_mermaid(graph))
        else:
            write_text(folder / f"{name}.svg", svg)
    if None in drawn.values():
        return f"There is no graphviz here: wrote {folder}/dag.mmd and rulegraph.mmd for Mermaid."
    return f"Wrote {folder}/dag.svg and {folder}/rulegraph.svg."


if __name__ == "__main__":
    try:
        print(plot(*planned(arguments.parse().config)))
    except UserError as error:
        sys.exit(f"longrope: error: {error}")
