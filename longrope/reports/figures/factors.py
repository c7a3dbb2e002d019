"""Plot the searched factors of each length against those of PI, NTK-aware scaling and YaRN."""

from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note
from longrope.reports.tables import Searched, geometry_of, searched_factors
from longrope.rope.methods import Geometry, closed_form

REFERENCES = ("linear", "ntk", "yarn")
# Searches at one length differ by the model they scored; dashes tell them apart in one colour.
DASHES = {"base": "-", "tuned": "--", "readjusted": ":"}


def figure(results: Results) -> Figure:
    """Return the figure of the factors of finished results."""
    searched = searched_factors(results)
    return draw(searched, geometry_of(searched[0].factors), note=model_note(results.plan))


def draw(searched: list[Searched], geometry: Geometry, *, note: str = "") -> Figure:
    """Return the figure; `searched` is ordered by length and says where each set was searched."""
    by_length = [
        (length, list(sets))
        for length, sets in groupby(searched, lambda each: each.factors.target_length)
    ]
    figure, grid = style.panels(len(by_length))
    for axes, (length, sets) in zip(grid, by_length, strict=True):
        draw_panel(axes, length, sets, geometry)
    style.row_labels(grid, f"rescale factor{style.LOG}")
    return style.finish(figure, "Rescale factors of the rotary pairs", note, grid)


def draw_panel(axes: Axes, length: int, sets: list[Searched], geometry: Geometry) -> None:
    """Draw the factors for one length, in tokens."""
    for method in REFERENCES:
        factors = closed_form(method, geometry, length).factors
        colour, label = style.COLOURS[method], style.LABELS[method]
        axes.plot(factors, color=colour, linewidth=1.3, label=label)
    for each in sets:
        axes.plot(
            each.factors.factors,
            DASHES[each.stage],
            color=style.COLOURS["longrope"],
            linewidth=2,
            label=f"LongRoPE, {each.where}",
        )
    style.log_axis(axes, "y")
    starts = start_tokens(sets)
    scale = f"{length / geometry.original_length:g}x"
    title = f"{style.length_label(length)} tokens ({scale}), start tokens {starts}"
    style.panel_title(axes, title)
    axes.set_xlabel("rotary pair (0 turns fastest)")


def start_tokens(sets: list[Searched]) -> str:
    """Return the start tokens of some sets, once if they are alike."""
    counts = [each.factors.num_start_tokens for each in sets]
    if len(set(counts)) == 1:
        return str(counts[0])
    return ", ".join(f"{n} ({each.stage})" for n, each in zip(counts, sets, strict=True))
