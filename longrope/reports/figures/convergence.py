"""Plot how each search converged: best perplexity so far against the tokens scored for it."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note
from longrope.reports.tables import convergence_table

START_LABELS = {
    **style.LABELS,
    "mixed": "YaRN as the public code mixes it",
    "tuned": "factors of the fine-tuning",
}
"""origin of a search's start -> label in the legend; ramps have their name"""


def figure(results: Results) -> Figure:
    """Return the figure of the searches of finished results."""
    return draw(convergence_table(results), note=model_note(results.plan))


def draw(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure of a convergence table, one panel per search."""
    searches = style.groups(table, "length", "search")
    figure, grid = style.panels(len(searches))
    for axes, ((length, search), rows) in zip(grid, searches, strict=True):
        draw_panel(axes, rows)
        style.panel_title(axes, f"{style.length_label(length)} tokens, {search}")
    style.row_labels(grid, "perplexity on the search documents")
    return style.finish(figure, "Convergence of the searches", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw every candidate as a dot and the best so far as a line."""
    tokens = rows["scored_tokens"] / 1e6
    axes.plot(tokens, rows["perplexity"], ".", color="0.65", markersize=3, label="candidate")
    axes.step(
        tokens,
        rows["best"],
        where="post",
        color=style.COLOURS["longrope"],
        linewidth=2,
        label="best so far",
    )
    style.cut_far_above(axes, rows["perplexity"])
    draw_starts(axes, rows)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("scored tokens (millions)")


def draw_starts(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the factors that the search started from as horizontal lines, and name those above the frame."""
    starts = rows[rows["start"] != ""].dropna(subset="perplexity").drop_duplicates("start")
    above = []
    starts = starts.sort_values("perplexity", kind="stable")
    for name, value in zip(starts["start"], starts["perplexity"], strict=True):
        label, colour = START_LABELS.get(name, name), style.COLOURS.get(name, "0.3")
        if value > axes.get_ylim()[1]:
            above.append(f"{label}: {value:.4g}")
        else:
            axes.axhline(
                value, color=colour, linestyle="--", linewidth=1.3, label=f"start: {label}"
            )
    if above:
        axes.text(
            *(0.98, 0.97, "\n".join(["starts above the frame:", *above])),
            ha="right",
            va="top",
            fontsize=7,
            transform=axes.transAxes,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 2},
        )
