"""Plot passkey retrieval: one heat map of depth by length per variant and method."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note
from longrope.reports.tables import finished_table


def figure(results: Results) -> Figure:
    """Return the figure of the passkey table of finished results."""
    return draw(finished_table(results, "passkey"), note=model_note(results.plan))


def draw(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure of a passkey table."""
    if table.empty:
        return style.nothing_to_draw("this experiment evaluates no passkey retrieval")
    series = style.groups(table, "variant", "method", sort=False)
    figure, grid = style.panels(len(series), columns=4)
    for axes, ((variant, method), rows) in zip(grid, series, strict=True):
        image = draw_panel(axes, rows)
        style.panel_title(axes, style.series_label(variant, method))
    style.row_labels(grid, "depth of the passkey (0: start)")
    counts = table.groupby(["variant", "method", "length", "depth"])["trials"].sum()
    fewest, most = counts.min(), counts.max()
    trials = f"{most}" if fewest == most else f"{fewest} to {most}"
    figure.colorbar(image, ax=grid, label=f"retrieved, % of {trials} trials each", pad=0.01)
    return style.finish(figure, "Passkey retrieval by length and depth", note)


def draw_panel(axes: Axes, rows: pd.DataFrame) -> AxesImage:
    """Draw one heat map; depth 0 is the start of the prompt and stands at the top."""
    counts = rows.pivot_table(index="depth", columns="length", aggfunc="sum", dropna=False)
    percent = 100 * counts["correct"] / counts["trials"]
    image = axes.imshow(percent, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(percent.shape[1]), [*map(style.length_label, percent.columns)])
    axes.set_yticks(range(percent.shape[0]), [f"{depth:g}" for depth in percent.index])
    axes.set_xlabel("length (tokens)")
    axes.grid(visible=False)
    for (down, across), value in np.ndenumerate(percent.to_numpy()):
        colour = "black" if value > 50 else "white"
        if np.isfinite(value):
            axes.text(across, down, f"{value:.0f}", ha="center", va="center", color=colour)
    return image
