"""Factors by rotary pair against PI, NTK-aware scaling and YaRN, a panel per length and model."""

from collections.abc import Sequence
from itertools import cycle, groupby, product
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrope.reports.figures import style
from longrope.reports.results import Results, model_note
from longrope.reports.tables import geometry_of, searched_factors
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import closed_form, critical_pair

REFERENCES = ("linear", "ntk", "yarn")
# Searches at one length differ by the model they scored; dashes tell them apart in one colour.
DASHES = {"base": "-", "tuned": "--", "readjusted": ":"}
COLOURS = (style.COLOURS["longrope"], style.TUNED_COLOUR, style.COLOURS["none"])
"""of the curves of files, each with each of the dashes"""


class Curve(NamedTuple):
    """One set of factors in a panel."""

    name: str
    """tells its start tokens from those of the other curves"""
    label: str
    factors: RopeFactors
    colour: str = style.COLOURS["longrope"]
    dashes: str = "-"


def figure(results: Results) -> Figure:
    """Return the figure of the factors of finished results."""
    curves = [
        Curve(each.stage, f"LongRoPE, {each.where}", each.factors, dashes=DASHES[each.stage])
        for each in searched_factors(results)
    ]
    return draw(curves, note=model_note(results.plan))


def figure_of_files(sets: Sequence[tuple[str, RopeFactors]]) -> Figure:
    """Return the figure of named sets of factors, which say their rotary base."""
    looks = cycle(product(DASHES.values(), COLOURS))
    return draw(
        [
            Curve(name, name, factors, colour, dashes)
            for (name, factors), (dashes, colour) in zip(sets, looks, strict=False)
        ]
    )


def draw(curves: Sequence[Curve], *, note: str = "") -> Figure:
    """Return the figure, a panel for all curves of equal lengths, rotary base and number of pairs.

    Raises:
        UserError: if a set does not say its rotary base, on which YaRN and the critical pair depend.
    """
    alike = [list(group) for _, group in groupby(sorted(curves, key=_panel), key=_panel)]
    figure, grid = style.panels(len(alike))
    for axes, group in zip(grid, alike, strict=True):
        draw_panel(axes, group)
    style.row_labels(grid, f"rescale factor{style.LOG}")
    return style.finish(figure, "Rescale factors of the rotary pairs", note, grid)


def _panel(curve: Curve) -> tuple[int, int, int, float]:
    geometry = geometry_of(curve.factors)
    length = curve.factors.target_length
    return geometry.original_length, length, geometry.num_pairs, geometry.rope_theta


def draw_panel(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draw the curves of one panel, the closed forms, and the first pair that never turns fully."""
    geometry, length = geometry_of(curves[0].factors), curves[0].factors.target_length
    for method in REFERENCES:
        factors = closed_form(method, geometry, length).factors
        colour, label = style.COLOURS[method], style.LABELS[method]
        axes.plot(factors, color=colour, linewidth=1.3, label=label)
    for curve in curves:
        values, colour = curve.factors.factors, curve.colour
        axes.plot(values, curve.dashes, color=colour, linewidth=2, label=curve.label)
    critical = critical_pair(geometry)
    axes.axvline(
        critical, color="0.4", linestyle=":", linewidth=1, label=f"critical pair: {critical}"
    )
    style.log_axis(axes, "y")
    base, scale = f"base {geometry.rope_theta:,g}", f"{length / geometry.original_length:g}x"
    starts = f"start tokens {start_tokens(curves)}"
    style.panel_title(axes, f"{style.length_label(length)} tokens ({scale}), {base}, {starts}")
    axes.set_xlabel("rotary pair (0 turns fastest)")


def start_tokens(curves: Sequence[Curve]) -> str:
    """Return the start tokens of some curves, once if they are alike."""
    counts = [curve.factors.num_start_tokens for curve in curves]
    if len(set(counts)) == 1:
        return str(counts[0])
    return ", ".join(f"{n} ({curve.name})" for n, curve in zip(counts, curves, strict=True))
