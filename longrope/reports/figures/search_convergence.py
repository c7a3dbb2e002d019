"""Plot how the algorithms of a study converged: best perplexity so far, over seeds, against scored tokens.

The best so far is over candidates scored on all search documents. An algorithm that scores few documents a
generation has such candidates in its selection alone, so its line begins there, at its full cost.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note
from longrope.reports.studies import band_over_seeds, study_convergence


def figure(results: Results) -> Figure:
    """Return the figure of the searches of a finished study."""
    return draw(study_convergence(results), note=model_note(results.plan))


def draw(table: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure of a study's convergence, one panel per length."""
    lengths = style.groups(table, "length")
    if not lengths:
        return style.nothing_to_draw("The study has no search.")
    figure, grid = style.panels(len(lengths))
    for axes, (length, rows) in zip(grid, lengths, strict=True):
        draw_panel(axes, rows)
        axes.set_title(f"{style.length_label(length)} tokens")
    style.row_labels(grid, "best perplexity on the search documents")
    return style.finish(figure, "Convergence of the algorithms over seeds", note, grid)


def draw_panel(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw the median over seeds of each algorithm, a band from least to most, and where it ends."""
    for index, (name, searches) in enumerate(style.groups(rows, "algorithm")):
        band = band_over_seeds(searches)
        tokens = band.index / 1e6
        label = f"{name} ({searches['seed'].nunique()} seeds)"
        (line,) = axes.step(tokens, band["median"], where="post", linewidth=1.8, label=label)
        axes.fill_between(tokens, band["low"], band["high"], step="post", alpha=0.2)
        mark = style.MARKS[index % len(style.MARKS)]
        axes.plot(tokens[-1:], band["median"].iloc[-1:], mark, color=line.get_color())
    style.cut_far_above(axes, rows["best"])
    style.log_axis(axes, "x")
    axes.set_xlabel(f"scored tokens, millions{style.LOG}")
