"""Plot perplexity by length: one panel per corpus, one line per method, its interval as a band."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note, original_length
from longrope.reports.seeds import perplexity_over_seeds
from longrope.reports.tables import finished_table


def figure(results: Results) -> Figure:
    """Return the figure of the perplexity table of finished results."""
    table, window = finished_table(results, "perplexity"), original_length(results.plan)
    return draw(table, window=window, note=model_note(results.plan))


def draw(table: pd.DataFrame, *, window: int | None = None, note: str = "") -> Figure:
    """Return the figure of a perplexity table; `window` is the pretrained one, tokens."""
    if table.empty:
        return style.nothing_to_draw("this experiment evaluates no perplexity")
    band = "range of the seeds" if "seed" in table.columns else "95 % over documents"
    corpora = style.groups(perplexity_over_seeds(table), "corpus")
    figure, grid = style.panels(len(corpora))
    for axes, (corpus, rows) in zip(grid, corpora, strict=True):
        draw_panel(axes, rows, window)
        stand_in = rows["stand_in"].iloc[0]
        title = f"{corpus} (stand-in: {stand_in})" if stand_in else corpus
        style.panel_title(axes, title)
    style.row_labels(grid, f"perplexity, band: {band}{style.LOG}")
    return style.finish(figure, "Perplexity by length", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame, window: int | None) -> None:
    """Draw the lines of one corpus."""
    for (variant, method), line in style.groups(rows, "variant", "method", sort=False):
        line = line[np.isfinite(line["ppl"])]
        colour = style.series_colour(variant, method)
        axes.fill_between(
            line["length"], line["ppl_low"], line["ppl_high"], color=colour, alpha=0.15, linewidth=0
        )
        axes.plot(
            line["length"],
            line["ppl"],
            color=colour,
            marker=style.series_marker(variant, method),
            markersize=8 if variant == "tuned" else 4.5,
            linewidth=2.2 if variant == "tuned" else 1.3,
            label=style.series_label(variant, method),
        )
    style.length_axis(axes, rows["length"].tolist())
    if window is not None:
        axes.axvline(window, color="0.4", linestyle=":", linewidth=1, label="pretrained window")
    style.log_axis(axes, "y")
