"""Plot how each search converged: best perplexity so far against the tokens scored for it."""

import arguments
import figures
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from longrope.reporting import convergence_table
from longrope.results import model_note, read_plan, store_of


def draw(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure of a convergence table, one panel per search."""
    searches = list(table.groupby(["length", "search"]))
    figure, grid = figures.panels(len(searches))
    for axes, ((length, search), rows) in zip(grid, searches, strict=True):
        draw_panel(axes, rows)
        axes.set_title(f"{figures.length_label(length)} tokens, {search}")
    grid[0].set_ylabel("perplexity on the search documents")
    return figures.finish(figure, "Convergence of the searches", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw every candidate as a dot and the best so far as a line."""
    tokens = rows["scored_tokens"] / 1e6
    axes.plot(tokens, rows["perplexity"], ".", color="0.65", markersize=3, label="candidate")
    axes.step(
        tokens,
        rows["best"],
        where="post",
        color=figures.COLOURS["longrope"],
        linewidth=2,
        label="best so far",
    )
    draw_seeds(axes, rows)
    figures.cut_far_above(axes, rows["perplexity"])
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("scored tokens (millions)")


def draw_seeds(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the closed-form factors that the search started from as horizontal lines."""
    seeds = rows[rows["origin"].isin(figures.LABELS)].drop_duplicates("origin")
    for method, loss in zip(seeds["origin"], seeds["perplexity"], strict=True):
        axes.axhline(
            loss,
            color=figures.COLOURS[method],
            linestyle="--",
            linewidth=1.3,
            label=f"seed: {figures.LABELS[method]}",
        )


if __name__ == "__main__":
    paths = arguments.parse()
    plan = read_plan(paths.plan)
    table = convergence_table(plan, store_of(paths.plan))
    figure = draw(table, note=model_note(plan))
    figures.save(figure, paths.svg, paths.png)
