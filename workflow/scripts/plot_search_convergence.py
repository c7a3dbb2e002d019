"""Plot how the algorithms of a study converged: best perplexity so far, over seeds, against scored tokens.

The best so far is over candidates scored on all search documents. An algorithm that scores few documents a
generation has such candidates in its selection alone, so its line begins there, at its full cost.
"""

import arguments
import figures
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.results import model_note, read_plan, store_of
from longrope.reports.studies import band_over_seeds, study_convergence


def draw(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure of a study's convergence, one panel per length."""
    lengths = list(table.groupby("length"))
    if not lengths:
        return figures.nothing_to_draw("The study has no search.")
    figure, grid = figures.panels(len(lengths))
    for axes, (length, rows) in zip(grid, lengths, strict=True):
        draw_panel(axes, rows)
        axes.set_title(f"{figures.length_label(length)} tokens")
    figures.row_labels(grid, "best perplexity on the search documents")
    return figures.finish(figure, "Convergence of the algorithms over seeds", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the median over seeds of each algorithm, a band from least to most, and where it ends."""
    for index, (name, found) in enumerate(rows.groupby("algorithm")):
        band = band_over_seeds(found)
        tokens = band.index / 1e6
        label = f"{name} ({found['seed'].nunique()} seeds)"
        (line,) = axes.step(tokens, band["median"], where="post", linewidth=1.8, label=label)
        axes.fill_between(tokens, band["low"], band["high"], step="post", alpha=0.2)
        mark = figures.MARKS[index % len(figures.MARKS)]
        axes.plot(tokens[-1:], band["median"].iloc[-1:], mark, color=line.get_color())
    figures.cut_far_above(axes, rows["best"])
    figures.log_axis(axes, "x")
    axes.set_xlabel(f"scored tokens, millions{figures.LOG}")


if __name__ == "__main__":
    paths = arguments.parse()
    plan = read_plan(paths.plan)
    figure = draw(study_convergence(plan, store_of(paths.plan)), note=model_note(plan))
    figures.save(figure, paths.svg, paths.png)
