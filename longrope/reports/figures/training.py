"""Plot how each fine-tuning went: loss, watched perplexity, learning rate, gradients, speed and memory."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note
from longrope.reports.tables import MEMORY_COLUMNS, training_table, watched_table

QUANTITIES = {
    "loss": "loss of the rows trained on (nats)",
    "perplexity": f"perplexity of held-out documents{style.LOG}",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm before clipping",
    "tokens_per_second": "tokens per second",
    "memory": "memory of the first process (MB)",
}
"""quantity -> what its axis is called, from top to bottom"""
MEMORY = dict(
    zip(
        MEMORY_COLUMNS,
        (
            ("GPU: peak of the step", "longrope", "-"),
            ("main memory: step's end", "none", "-"),
            ("main memory: peak so far", "none", "--"),
        ),
        strict=True,
    )
)
"""column -> what its line is called, whose colour it has, and its style"""
MISSING = {"perplexity": "not watched"}
"""quantity -> what stands in its panel for a model that has none, if not `not measured`"""
SMOOTHED = 10
"""Steps of a training, divided by those that its running mean is over."""


def figure(results: Results) -> Figure:
    """Return the figure of the fine-tunings of finished results."""
    return draw(training_table(results), watched_table(results), note=model_note(results.plan))


def draw(training: pd.DataFrame, watched: pd.DataFrame, *, note: str = "") -> Figure:
    """Return the figure: a column of panels per model, a row per quantity that some model has."""
    if training.empty:
        return style.nothing_to_draw("this experiment fine-tunes no model")
    models = list(training["model"].unique())
    rows = [name for name in QUANTITIES if _has(training, watched, name)]
    figure, grid = style.panels(len(rows) * len(models), len(models))
    for number, axes in enumerate(grid):
        name, model = rows[number // len(models)], models[number % len(models)]
        log, losses = (table[table["model"] == model] for table in (training, watched))
        if _has(log, losses, name):
            draw_panel(axes, name, log, losses)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        else:
            axes.set_axis_off()
            axes.text(0.5, 0.5, MISSING.get(name, "not measured"), ha="center", va="center")
    for axes, model in zip(grid, models, strict=False):
        style.panel_title(axes, model)
    for number, name in enumerate(rows):
        style.row_labels(grid[number * len(models) :][:1], QUANTITIES[name])
    for column in range(len(models)):
        lowest = [axes for axes in grid[column :: len(models)] if axes.axison][-1]
        lowest.set_xlabel("optimizer step")
    return style.finish(figure, "Fine-tuning", note, grid)


def _has(training: pd.DataFrame, watched: pd.DataFrame, name: str) -> bool:
    table = watched if name == "perplexity" else training
    columns = list(MEMORY_COLUMNS) if name == "memory" else [name]
    return bool(table[columns].notna().any(axis=None))


def draw_panel(axes: Axes, name: str, training: pd.DataFrame, watched: pd.DataFrame) -> None:
    """Draw one quantity of one model."""
    if name == "perplexity":
        draw_perplexity(axes, watched)
        return
    if name == "memory":
        draw_memory(axes, training)
        return
    smooth = name == "learning_rate"
    axes.plot(
        training["step"],
        training[name],
        color=style.COLOURS["longrope"] if smooth else "0.65",
        linewidth=1.3 if smooth else 0.8,
        label=None if smooth else "each step",
    )
    if not smooth:
        draw_running_mean(axes, training["step"], training[name])
    axes.ticklabel_format(axis="y", scilimits=(-3, 5))


def draw_running_mean(axes: Axes, steps: "pd.Series[int]", values: "pd.Series[float]") -> None:
    """Draw the mean of each step and those before it, over a tenth of all steps."""
    axes.plot(
        steps,
        values.rolling(max(1, len(values) // SMOOTHED), min_periods=1).mean(),
        color=style.COLOURS["longrope"],
        linewidth=2,
        label="running mean",
    )


def draw_perplexity(axes: Axes, watched: pd.DataFrame) -> None:
    """Draw a line for the original length and one for the target length."""
    kinds = {"original length": "none", "target length": "longrope"}
    lines = watched.sort_values(["length", "step"]).groupby("length")
    for (label, method), (_, rows) in zip(kinds.items(), lines, strict=False):
        axes.plot(
            rows["step"],
            rows["perplexity"],
            color=style.COLOURS[method],
            marker=style.MARKERS[method],
            markersize=4.5,
            linewidth=1.3,
            label=label,
        )
    style.log_axis(axes, "y")


def draw_memory(axes: Axes, training: pd.DataFrame) -> None:
    """Draw a line for each memory that was measured, from zero."""
    for column, (label, method, dashes) in MEMORY.items():
        if training[column].notna().any():
            axes.plot(
                training["step"],
                training[column],
                color=style.COLOURS[method],
                linestyle=dashes,
                linewidth=1.3,
                label=label,
            )
    axes.set_ylim(0, 1.08 * float(np.nanmax(training[list(MEMORY)])))
