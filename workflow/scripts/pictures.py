"""Drawing by graphviz where it is installed; nothing in the project needs it."""

import re
import shutil
import subprocess
import sys

from longrope.reports.dag import Graph, to_dot


def svg_of(graph: Graph) -> str | None:
    """Return the drawing as an SVG element that can stand in a page, None if there is no graphviz."""
    if shutil.which("dot") is None:
        return None
    done = subprocess.run(
        ["dot", "-Tsvg"], input=to_dot(graph), capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"dot failed: {done.stderr.strip()}", file=sys.stderr)
        return None
    element = done.stdout[done.stdout.index("<svg") :]
    # Two drawings in one page would share the names that graphviz counts up.
    return re.sub(r' id="[a-z_]*\d+"', "", element)
