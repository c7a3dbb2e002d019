"""Plot a search study: held-out perplexity against scored tokens, a mark per algorithm, bars over seeds."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note
from longrope.reports.tables import finished_table


def figure(results: Results) -> Figure:
    """Return the figure of the table of a finished study."""
    return draw(finished_table(results, "search"), note=model_note(results.plan))


def draw(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure of a search table, one panel per length."""
    lengths = style.groups(table, "length")
    figure, grid = style.panels(len(lengths))
    for axes, (length, rows) in zip(grid, lengths, strict=True):
        draw_panel(axes, rows)
        axes.set_title(f"{style.length_label(length)} tokens")
    style.row_labels(grid, "perplexity on held-out documents")
    return style.finish(figure, "What a search finds, by what it scores", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the median over seeds of each algorithm, and bars from the least to the most."""
    for index, (name, searches) in enumerate(style.groups(rows, "algorithm")):
        tokens, losses = searches["scored_tokens"] / 1e6, searches["heldout_ppl"]
        middle = [tokens.median()], [losses.median()]
        axes.errorbar(
            *middle,
            xerr=[[middle[0][0] - tokens.min()], [tokens.max() - middle[0][0]]],
            yerr=[[middle[1][0] - losses.min()], [losses.max() - middle[1][0]]],
            fmt=style.MARKS[index % len(style.MARKS)],
            capsize=3,
            label=f"{name} ({len(searches)} seeds)",
        )
    style.log_axis(axes, "x")
    axes.set_xlabel(f"scored tokens, millions{style.LOG}")
