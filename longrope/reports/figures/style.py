"""Style of all figures: colours, labels, sizes, and files whose bytes do not depend on the day.

Methods have their colours and markers by their order in METHODS.
"""

import math
import os
import textwrap
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

# Before the import, which refuses a backend of Jupyter's that is not installed.
os.environ["MPLBACKEND"] = "agg"

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from longrope.reports.ticks import log_ticks, minor_log_ticks, tick_label
from longrope.rope.methods import METHODS
from longrope.store.atomic import written_whole

LABELS = {name: method.label for name, method in METHODS.items()} | {"longrope": "LongRoPE"}
# Okabe and Ito's palette, told apart with any colour vision, then grey and brown; markers differ too.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#999999", "#8B4513")
COLOURS = dict(zip(METHODS, cycle(PALETTE), strict=False)) | {"longrope": "#0072B2"}
TUNED_COLOUR = "#D55E00"
MARKERS = dict(zip(METHODS, cycle("os^vDX<"), strict=False)) | {"longrope": "P"}
TUNED_MARKER = "*"
MARKS = "osD^vP*X"
"""Of the algorithms of a study, in the order of their names."""
SEEN = 1.3
"""Candidates this many times worse than the best are cut off, or the descent would not be seen."""
DOTS: dict[str, float] = {"png": 150}
"""Per inch, of a picture that is made of dots."""
SIZE = (4.0, 3.2)
"""Inches, of one panel."""
HANDLE_WIDTH = 0.65
"""Inches, of an entry of a legend beside its words."""
TITLE_SIZE = 11
"""Points, of the title of a figure."""
LINE_HEIGHT = 0.2
"""Inches, of a line of a title and of a row of a legend."""
LOG = " (log\N{NO-BREAK SPACE}scale)"
"""Ends the label of every logarithmic axis."""
X_GAP = 0.12
"""Least distance of two numbers under a panel, as a share of its width."""
PICTURES = {
    ".pdf": ("CreationDate", "Creator", "Producer"),
    ".png": ("Software",),
    ".svg": ("Creator", "Date"),
}
"""suffix of a picture -> entries that would say when and by which version it was drawn"""
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "longrope",
    # a name may have dollar signs
    "text.parse_math": False,
}
# A user's matplotlibrc is for figures of their own.
matplotlib.rcdefaults()
matplotlib.rcParams.update(STYLE)


def groups(table: pd.DataFrame, *columns: str, sort: bool = True) -> list[tuple[Any, pd.DataFrame]]:
    """Return the rows of each value of a column, or of each tuple of values of several."""
    by = columns[0] if len(columns) == 1 else list(columns)
    return list(table.groupby(by, sort=sort))


def series_label(variant: str, method: str) -> str:
    """Return what a legend calls one method on the base or on the tuned model."""
    return f"{LABELS[method]}, fine-tuned" if variant == "tuned" else LABELS[method]


def series_colour(variant: str, method: str) -> str:
    """Return the one colour of a method; whatever is fine-tuned has its own."""
    return TUNED_COLOUR if variant == "tuned" else COLOURS[method]


def series_marker(variant: str, method: str) -> str:
    """Return the one marker of a method."""
    return TUNED_MARKER if variant == "tuned" else MARKERS[method]


def panels(count: int, columns: int = 3) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels in rows of at most `columns`."""
    across = min(count, columns)
    down = math.ceil(count / across)
    size = (SIZE[0] * across, SIZE[1] * down + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def finish(figure: Figure, title: str, note: str, legend_from: Sequence[Axes] = ()) -> Figure:
    """Add a title, the note on stand-ins below it, and one legend under all panels."""
    width = figure.get_figwidth() - 0.4
    head = "\n".join(wrapped(text, width, TITLE_SIZE) for text in (title, note) if text)
    figure.suptitle(head, fontsize=TITLE_SIZE)
    lines = head.count("\n") + add_legend(figure, legend_from, width)
    figure.set_figheight(figure.get_figheight() + LINE_HEIGHT * max(0, lines - 2))
    return figure


def add_legend(figure: Figure, legend_from: Sequence[Axes], width: float) -> int:
    """Add one legend under all panels, at most `width` inches wide; return its lines."""
    size = matplotlib.rcParams["font.size"]
    entries = {
        wrapped(label, width - HANDLE_WIDTH, size): handle
        for axes in legend_from
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if not entries:
        return 0
    widest = max(text_width(line, size) for label in entries for line in label.split("\n"))
    columns = max(1, min(len(entries), int(width / (widest + HANDLE_WIDTH))))
    figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
    return math.ceil(sum(label.count("\n") + 1 for label in entries) / columns)


def panel_title(axes: Axes, title: str) -> None:
    """Give a panel a title that is wrapped to its width."""
    axes.set_title(wrapped(title, SIZE[0] - 0.7, matplotlib.rcParams["axes.titlesize"]))


def row_labels(grid: Sequence[Axes], label: str) -> None:
    """Label the vertical axis of the first panel of every row."""
    for axes in grid:
        place = axes.get_subplotspec()
        if place is not None and place.is_first_col():
            axes.set_ylabel(wrapped(label, SIZE[1] - 0.8, matplotlib.rcParams["font.size"]))


def wrapped(text: str, width: float, size: float) -> str:
    """Return a text in lines of at most `width` inches, broken at spaces where there are some."""
    whole = text_width(text, size)
    if whole <= width:
        return text
    characters = int(len(text) * width / whole) + 8
    while True:
        lines = textwrap.wrap(text, characters)
        if characters == 1 or max(text_width(line, size) for line in lines) <= width:
            return "\n".join(lines)
        characters -= 1


def text_width(text: str, size: float) -> float:
    """Return the inches of a line of text in the font of all figures."""
    font = get_font(findfont(FontProperties()))
    font.set_size(size, 72)
    font.set_text(text, 0.0)
    # in 64ths of a point
    return float(font.get_width_height()[0]) / 64 / 72


def nothing_to_draw(sentence: str) -> Figure:
    """Return a figure that says why it is empty."""
    figure, (axes,) = panels(1)
    axes.set_axis_off()
    axes.text(0.5, 0.5, sentence, ha="center", va="center")
    return figure


def length_axis(axes: Axes, lengths: Sequence[int]) -> None:
    """Give an axis of lengths a logarithmic scale with one tick per length."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(lengths))))
    axes.xaxis.set_major_formatter(FuncFormatter(length_label))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"length in tokens{LOG}")


def cut_far_above(axes: Axes, perplexities: "pd.Series[float]") -> None:
    """End an axis of perplexity where candidates are far worse than the best."""
    best, worst = perplexities.min(), perplexities.max()
    if best < worst:
        margin = 0.02 * (min(worst, SEEN * best) - best)
        axes.set_ylim(best - margin, min(worst, SEEN * best) + margin)


def log_axis(axes: Axes, name: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, once all is drawn, with plain numbers close enough to read between.

    Its label must end in LOG.
    """
    axes.set_xscale("log") if name == "x" else axes.set_yscale("log")
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = sorted(axis.get_view_interval())
    gap = {"gap": X_GAP} if name == "x" else {}
    axis.set_major_locator(FixedLocator(log_ticks(low, high, **gap)))
    axis.set_major_formatter(FuncFormatter(lambda value, position: tick_label(value)))
    axis.set_minor_locator(FixedLocator(minor_log_ticks(low, high)))
    axis.set_minor_formatter(NullFormatter())


def length_label(length: float, position: object = None) -> str:
    """Return a length in tokens as people write it: 256, 2k, 128k."""
    del position
    return f"{length / 1024:g}k" if length >= 1024 and length % 1024 == 0 else f"{length:g}"


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, in the format of the suffix; equal figures give equal bytes."""
    form, undated = path.suffix[1:], dict[str, Any].fromkeys(PICTURES[path.suffix])
    with written_whole(path) as scratch:
        figure.savefig(scratch, format=form, dpi=DOTS.get(form, "figure"), metadata=undated)
