"""Plot perplexity by length: one panel per corpus, one line per method, its interval as a band."""

import arguments
import figures
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.tables import read_table
from longrope.reports.results import model_note, original_length, read_plan


def draw(table: pd.DataFrame, *, window: int | None = None, note: str = "") -> Figure:
    """Return the figure of a perplexity table; `window` is the pretrained one, tokens."""
    if table.empty:
        return figures.nothing_to_draw("this experiment evaluates no perplexity")
    corpora = list(table.groupby("corpus"))
    figure, grid = figures.panels(len(corpora))
    for axes, (corpus, rows) in zip(grid, corpora, strict=True):
        draw_panel(axes, rows, window)
        stand_in = rows["stand_in"].iloc[0]
        title = f"{corpus} (stand-in: {stand_in})" if stand_in else corpus
        figures.panel_title(axes, title)
    figures.row_labels(grid, f"perplexity, band: 95 % over documents{figures.LOG}")
    return figures.finish(figure, "Perplexity by length", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame, window: int | None) -> None:
    """Draw the lines of one corpus."""
    for (variant, method), line in rows.groupby(["variant", "method"], sort=False):
        line = line[np.isfinite(line["ppl"])]
        colour = figures.series_colour(variant, method)
        axes.fill_between(
            line["length"], line["ppl_low"], line["ppl_high"], color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(
            line["length"],
            line["ppl"],
            color=colour,
            marker=figures.series_marker(variant, method),
            markersize=8 if variant == "tuned" else 4.5,
            linewidth=2.2 if variant == "tuned" else 1.3,
            label=figures.series_label(variant, method),
        )
    figures.length_axis(axes, rows["length"].tolist())
    if window is not None:
        axes.axvline(window, color="0.4", linestyle=":", linewidth=1, label="pretrained window")
    figures.log_axis(axes, "y")


if __name__ == "__main__":
    paths = arguments.parse()
    plan = read_plan(paths.plan)
    figure = draw(
        read_table(paths.table),
        window=original_length(plan),
        note=model_note(plan),
    )
    figures.save(figure, paths.svg, paths.png)
