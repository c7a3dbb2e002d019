"""`factors plot`, `compare` and `convert`: factors of any origin, seen, side by side, in other formats."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from longrope.errors import UserError
from longrope.reports.ticks import log_ticks, minor_log_ticks, tick_label
from longrope.rope.factors import RopeFactors, log_ratios
from longrope.rope.formats import FORMATS, Loaded, format_of, read, write
from longrope.rope.huggingface import placement
from longrope.rope.methods import Geometry, closed_form, critical_pair
from longrope.rope.stated import Told
from longrope.settings import public_code as hyper_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCES = {"linear": "PI", "ntk": "NTK", "yarn": "YaRN"}
"""Method -> what the legend calls it."""
GREYS = {"linear": ":", "ntk": "--", "yarn": "-."}
PICTURES = (".pdf", ".png", ".svg")
# Any: the type of its keys is a list of all of matplotlib's.
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "font.size": 9,
    "grid.alpha": 0.25,
    "svg.hashsalt": "longrope",
}

Named = tuple[str, RopeFactors]


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verbs to the command line."""
    group = verbs.add_parser("factors", help="plot, compare or convert files of factors")
    actions = group.add_subparsers(required=True, metavar="ACTION")
    plot = actions.add_parser("plot", help="draw factors by rotary pair against PI, NTK and YaRN")
    plot.add_argument("files", type=Path, nargs="+", metavar="FILE")
    plot.add_argument("--output", type=Path, required=True, help="picture, .svg, .png or .pdf")
    plot.set_defaults(verb=_plot)
    compare = actions.add_parser("compare", help="print two sets of factors side by side")
    compare.add_argument("files", type=Path, nargs=2, metavar="FILE")
    compare.set_defaults(verb=_compare)
    convert = actions.add_parser("convert", help="write factors in another format")
    convert.add_argument("input", type=Path, metavar="IN")
    convert.add_argument("output", type=Path, metavar="OUT")
    convert.add_argument("--to", choices=[*FORMATS], help="format of OUT; else by its suffix")
    convert.add_argument("--short", type=Path, help="factors up to the original length")
    convert.set_defaults(verb=_convert)
    for action in (plot, compare, convert):
        _add_reading(action)


def _add_reading(action: argparse.ArgumentParser) -> None:
    """Let a verb be told what files may not say themselves."""
    action.add_argument("--from", dest="source", choices=FORMATS, help="format; else guessed")
    told = action.add_argument_group("where a file does not say it")
    told.add_argument("--original-length", type=int, metavar="TOKENS")
    told.add_argument("--target-length", type=int, metavar="TOKENS", help="or entry of a table")
    told.add_argument("--start-tokens", type=int, metavar="TOKENS")
    told.add_argument("--attention-scale", type=float, metavar="NUMBER")
    told.add_argument("--theta", type=float, metavar="NUMBER", help="rope_theta of the model")
    told.add_argument("--partial-rotary-factor", type=float, metavar="NUMBER")
    told.add_argument("--short-set", action="store_true", help="short_factor of a config")


def _load(path: Path, options: argparse.Namespace) -> Loaded:
    """Read a file of factors and print what is to be said of it."""
    if options.theta is not None and not options.theta > 1:
        raise UserError(f"--theta {options.theta:g}: a rotary base is above 1; see rope_theta.")
    told = Told(
        original_length=options.original_length,
        target_length=options.target_length,
        num_start_tokens=options.start_tokens,
        attention_scale=options.attention_scale,
        rope_theta=options.theta,
        partial_rotary_factor=options.partial_rotary_factor,
        short=options.short_set,
    )
    loaded = read(path, options.source, told)
    _warn(loaded.notes)
    return loaded


def _warn(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"longrope: warning: {sentence}.", file=sys.stderr)


# Convert ------------------------------------------------------------------------------------------


def _convert(options: argparse.Namespace) -> None:
    content = hyper_parameters.content_of(options.input)
    if content is not None:
        _convert_to_settings(options, content)
    else:
        _convert_factors(options)


def _convert_to_settings(options: argparse.Namespace, content: dict[str, Any]) -> None:
    """Write hyper-parameters of the public code as a block of a configuration."""
    if options.to or options.output.suffix not in hyper_parameters.SUFFIXES:
        raise UserError(
            f"{options.input} holds settings of a search; give a .yaml file for the block of a "
            "configuration, without --to."
        )
    _write_settings(options.output, *hyper_parameters.read(options.input, content))


def _write_settings(output: Path, text: str, lost: list[str]) -> None:
    _refuse_to_replace(output)
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from None
    _warn_of_lost(output, lost)


def _convert_factors(options: argparse.Namespace) -> None:
    loaded = _load(options.input, options)
    name = options.to or format_of(options.output)
    if options.to is None and name == loaded.format_name:
        raise UserError(f"{options.input} is {name} already; name another format with --to.")
    _refuse_to_replace(options.output)
    short = _short(options.short, loaded.factors) if options.short else None
    _warn_of_lost(options.output, write(options.output, loaded.factors, name, short))
    if name == "huggingface":
        print(placement(options.output, loaded.factors))


def _refuse_to_replace(output: Path) -> None:
    if output.exists():
        raise UserError(f"{output} is there already; name another file or remove it.")


def _warn_of_lost(output: Path, lost: Sequence[str]) -> None:
    if lost:
        _warn([f"{output} does not hold {', '.join(lost)}"])


def _short(path: Path, long: RopeFactors) -> RopeFactors:
    """Read the set that goes with another one up to the original length."""
    length = long.original_length
    loaded = read(path, told=Told(original_length=length, target_length=length, short=True))
    _warn(loaded.notes)
    return loaded.factors


# Compare ------------------------------------------------------------------------------------------


def _compare(options: argparse.Namespace) -> None:
    one, other = [(str(path), _load(path, options).factors) for path in options.files]
    print("\n".join([*comparison(one, other)]))


def comparison(one: Named, other: Named) -> list[str]:
    """Return the lines of a comparison: what each set is, factors by pair, how far they differ.

    Raises:
        UserError: if they have different numbers of pairs.
    """
    (name_a, a), (name_b, b) = one, other
    if len(a.factors) != len(b.factors):
        raise UserError(
            f"{name_a} has {len(a.factors)} factors and {name_b} {len(b.factors)}; compare sets of "
            "models with equally many rotary pairs."
        )
    return [_facts(one, other), "", _pairs(a, b), "", _difference(a, b)]


def _facts(one: Named, other: Named) -> str:
    (name_a, a), (name_b, b) = one, other
    rows = [
        ("file", name_a, name_b),
        ("method", a.method, b.method),
        ("original length", f"{a.original_length:,}", f"{b.original_length:,}"),
        ("target length", f"{a.target_length:,}", f"{b.target_length:,}"),
        ("start tokens", f"{a.num_start_tokens:,}", f"{b.num_start_tokens:,}"),
        ("attention scale", f"{a.attention_scale:.6g}", f"{b.attention_scale:.6g}"),
        ("rope theta", _known(a.rope_theta), _known(b.rope_theta)),
        ("rotated share", _known(a.partial_rotary_factor), _known(b.partial_rotary_factor)),
    ]
    return _table(rows, ("", "A", "B"), ("left", "left", "left"))


def _known(value: float | None) -> str:
    return "not said" if value is None else f"{value:,.10g}"


def _pairs(a: RopeFactors, b: RopeFactors) -> str:
    values = enumerate(zip(a.factors, b.factors, strict=True))
    rows = [(str(i), f"{x:.6g}", f"{y:.6g}", f"{x / y:.4f}") for i, (x, y) in values]
    return _table(rows, ("pair", "A", "B", "A / B"), ("right",) * 4)


def _table(rows: Sequence[tuple[str, ...]], head: tuple[str, ...], align: tuple[str, ...]) -> str:
    text: str = tabulate(rows, head, tablefmt="simple", disable_numparse=True, colalign=align)
    return text


def _difference(a: RopeFactors, b: RopeFactors) -> str:
    sizes = [abs(ratio) for ratio in log_ratios(a, b)]
    largest = max(range(len(sizes)), key=sizes.__getitem__)
    mean = sum(sizes) / len(sizes)
    return f"|ln(A / B)|: at most {sizes[largest]:.4g} (pair {largest}), {mean:.4g} on average"


# Plot ---------------------------------------------------------------------------------------------


def _plot(options: argparse.Namespace) -> None:
    # Before the import, which refuses a backend of Jupyter's that is not installed.
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib

    output: Path = options.output
    if output.suffix not in PICTURES:
        raise UserError(f"{output}: no kind of picture; end it in one of {', '.join(PICTURES)}.")
    sets = with_theta([(str(path), _load(path, options).factors) for path in options.files])
    with matplotlib.rc_context(STYLE):
        picture = draw(sets)
        undated = {"Creator": None, "Date": None} if output.suffix == ".svg" else None
        try:
            picture.savefig(output, metadata=undated, dpi=150)
        except OSError as error:
            raise UserError(f"{output} cannot be written: {error.strerror}.") from None


def with_theta(sets: Sequence[Named]) -> list[Named]:
    """Return sets that all say their rotary base: one that does not has that of the others.

    Raises:
        UserError: if none says it, or the others say different ones.
    """
    bases = {factors.rope_theta for _, factors in sets} - {None}
    unsaid = [name for name, factors in sets if factors.rope_theta is None]
    if unsaid and len(bases) != 1:
        raise UserError(f"{unsaid[0]} does not say its rope_theta; give --theta.")
    base = next(iter(bases))
    _warn(
        f"{name} does not say its rope_theta ({base:,.10g} of the others is taken)"
        for name in unsaid
    )
    return [
        (name, factors if factors.rope_theta else factors.model_copy(update={"rope_theta": base}))
        for name, factors in sets
    ]


def draw(sets: Sequence[Named]) -> "Figure":
    """Return a figure with a panel for all sets of equal lengths, rotary base and number of pairs.

    Args:
        sets: name and factors of each curve, which say their rotary base: YaRN and the critical pair
            depend on it.
    """
    from matplotlib.figure import Figure

    groups = [list(alike) for _, alike in groupby(sorted(sets, key=_panel_key), key=_panel_key)]
    figure = Figure(figsize=(5.2 * len(groups), 4.6), layout="constrained")
    for number, alike in enumerate(groups, 1):
        _panel(figure.add_subplot(1, len(groups), number), alike)
    return figure


def _panel_key(named: Named) -> tuple[int, int, int, float]:
    factors = named[1]
    assert factors.rope_theta is not None, "sets without a base have none to be drawn with"
    return factors.original_length, factors.target_length, len(factors.factors), factors.rope_theta


def _panel(axes: "Axes", sets: Sequence[Named]) -> None:
    original, target, num_pairs, theta = _panel_key(sets[0])
    if num_pairs < 2:
        raise UserError(f"{sets[0][0]} has a single factor, which makes no curve.")
    geometry = Geometry(num_pairs=num_pairs, rope_theta=theta, original_length=original)
    for method, label in REFERENCES.items():
        values = closed_form(method, geometry, target).factors
        axes.plot(values, GREYS[method], color="0.45", linewidth=1.2, label=label)
    for name, factors in sets:
        axes.plot(factors.factors, linewidth=1.8, label=_label(name, factors))
    critical = critical_pair(geometry)
    axes.axvline(critical, color="0.2", linewidth=0.8, label=f"critical pair: {critical}")
    _log_scale(axes)
    axes.set_title(f"{original:,} to {target:,} tokens ({target / original:g}x), base {theta:,g}")
    axes.set_xlabel("rotary pair (0 turns fastest)")
    axes.set_ylabel("rescale factor (log scale)")
    axes.legend(fontsize=7, frameon=False)


def _log_scale(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, once all is drawn, with plain numbers."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    ticks = log_ticks(low, high)
    axes.set_yticks(ticks, [tick_label(tick) for tick in ticks])
    axes.set_yticks(minor_log_ticks(low, high), minor=True)
    axes.yaxis.set_minor_formatter("")


def _label(name: str, factors: RopeFactors) -> str:
    """Return the legend's entry of a file; a dollar sign would begin a formula."""
    starts = factors.num_start_tokens
    return name.replace("$", r"\$") + (f", {starts} start tokens" if starts else "")
