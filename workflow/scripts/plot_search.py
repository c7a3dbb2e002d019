"""Plot a search study: held-out perplexity against scored tokens, a mark per algorithm, bars over seeds."""

import arguments
import figures
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.tables import read_table
from longrope.reports.results import model_note, read_plan


def draw(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure of a search table, one panel per length."""
    lengths = list(table.groupby("length"))
    figure, grid = figures.panels(len(lengths))
    for axes, (length, rows) in zip(grid, lengths, strict=True):
        draw_panel(axes, rows)
        axes.set_title(f"{figures.length_label(length)} tokens")
    figures.row_labels(grid, "perplexity on held-out documents")
    return figures.finish(figure, "What a search finds, by what it scores", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the median over seeds of each algorithm, and bars from the least to the most."""
    for index, (name, found) in enumerate(rows.groupby("algorithm")):
        tokens, losses = found["scored_tokens"] / 1e6, found["heldout_ppl"]
        middle = [tokens.median()], [losses.median()]
        axes.errorbar(
            *middle,
            xerr=[[middle[0][0] - tokens.min()], [tokens.max() - middle[0][0]]],
            yerr=[[middle[1][0] - losses.min()], [losses.max() - middle[1][0]]],
            fmt=figures.MARKS[index % len(figures.MARKS)],
            capsize=3,
            label=f"{name} ({len(found)} seeds)",
        )
    figures.log_axis(axes, "x")
    axes.set_xlabel(f"scored tokens, millions{figures.LOG}")


if __name__ == "__main__":
    paths = arguments.parse()
    figure = draw(read_table(paths.table), note=model_note(read_plan(paths.plan)))
    figures.save(figure, paths.svg, paths.png)
