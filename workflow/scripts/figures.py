"""What all figures share: colours, labels, sizes, and files whose bytes do not depend on the day.

A new method needs its row in LABELS, COLOURS and MARKERS; a test compares them with METHODS.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

LABELS = {
    "none": "no scaling",
    "linear": "linear (PI)",
    "ntk": "NTK-aware",
    "dynamic_ntk": "dynamic NTK",
    "yarn": "YaRN",
    "longrope": "LongRoPE",
}
# Okabe and Ito's palette, told apart by readers with any colour vision; markers differ too.
COLOURS = {
    "none": "#000000",
    "linear": "#E69F00",
    "ntk": "#56B4E9",
    "dynamic_ntk": "#009E73",
    "yarn": "#CC79A7",
    "longrope": "#0072B2",
}
TUNED_COLOUR = "#D55E00"
MARKERS = {
    "none": "o",
    "linear": "s",
    "ntk": "^",
    "dynamic_ntk": "v",
    "yarn": "D",
    "longrope": "P",
}
TUNED_MARKER = "*"
MARKS = "osD^vP*X"
"""Of the algorithms of a study, in the order of their names."""
SEEN = 1.3
"""Candidates this many times worse than the best are cut off, or the descent would not be seen."""
SIZE = (4.0, 3.2)
"""Inches, of one panel."""
ENTRY_WIDTH = 1.9
"""Inches, of the widest entry of a legend."""
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "longrope",
}
matplotlib.rcParams.update(STYLE)


def series_label(variant: str, method: str) -> str:
    """Return what a legend calls one method on the base or on the tuned model."""
    return f"{LABELS[method]}, fine-tuned" if variant == "tuned" else LABELS[method]


def series_colour(variant: str, method: str) -> str:
    """Return the one colour of a method; whatever is fine-tuned has its own."""
    return TUNED_COLOUR if variant == "tuned" else COLOURS[method]


def series_marker(variant: str, method: str) -> str:
    """Return the one marker of a method."""
    return TUNED_MARKER if variant == "tuned" else MARKERS[method]


def panels(count: int, columns: int = 3, *, same_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels in rows of at most `columns`."""
    across = min(count, columns)
    down = math.ceil(count / across)
    figure, grid = plt.subplots(
        down,
        across,
        figsize=(SIZE[0] * across, SIZE[1] * down + 0.7),
        squeeze=False,
        sharey=same_y,
        layout="constrained",
    )
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def finish(figure: Figure, title: str, note: str, legend_from: Sequence[Axes] = ()) -> Figure:
    """Add a title, the note on stand-ins below it, and one legend under all panels."""
    figure.suptitle(f"{title}\n{note}" if note else title, fontsize=11)
    entries = {
        label: handle
        for axes in legend_from
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if entries:
        columns = min(len(entries), int(figure.get_figwidth() / ENTRY_WIDTH))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
    return figure


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
    axes.set_xlabel("length (tokens)")


def cut_far_above(axes: Axes, perplexities: "pd.Series[float]") -> None:
    """End an axis of perplexity where candidates are far worse than the best."""
    best, worst = perplexities.min(), perplexities.max()
    if best < worst:
        margin = 0.02 * (min(worst, SEEN * best) - best)
        axes.set_ylim(best - margin, min(worst, SEEN * best) + margin)


def plain_log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with a few plain numbers instead of powers of ten."""
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    steps = [1] if decades > 3.5 else [1, 3] if decades > 1.7 else [1, 2, 5]
    ladder = np.outer(10.0 ** np.arange(-3, 12), steps).ravel()
    inside = ladder[(ladder >= low) & (ladder <= high)]
    # Less than a decade holds too few rungs of the ladder; evenly spaced numbers serve it better.
    axis.set_major_locator(FixedLocator(inside.tolist()) if decades > 0.8 else MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_locator(NullLocator())


def _plain(value: float, position: object) -> str:
    del position
    return f"{value:,.0f}" if 1000 <= value < 1e6 else f"{value:g}"


def length_label(length: float, position: object = None) -> str:
    """Return a length in tokens as people write it: 256, 2k, 128k."""
    del position
    return f"{length / 1024:g}k" if length >= 1024 and length % 1024 == 0 else f"{length:g}"


def save(figure: Figure, svg: Path, png: Path) -> None:
    """Write a figure as SVG and PNG; equal figures give equal bytes."""
    figure.savefig(svg, metadata={"Date": None, "Creator": None})
    figure.savefig(png, dpi=150, metadata={"Software": None})
    plt.close(figure)
