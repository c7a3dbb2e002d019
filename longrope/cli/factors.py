"""`factors plot`, `compare` and `convert`: figures, comparisons and conversions of factor files."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from longrope.errors import UserError
from longrope.rope.factors import RopeFactors, log_ratios
from longrope.rope.formats import FORMATS, Loaded, format_of, read, write
from longrope.rope.huggingface import placement
from longrope.rope.stated import StatedFacts
from longrope.settings import public_code as hyper_parameters

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
    """Add the options for facts that a file may not state."""
    action.add_argument("--from", dest="source", choices=FORMATS, help="format; else guessed")
    group = action.add_argument_group("where a file does not say it")
    group.add_argument("--original-length", type=int, metavar="TOKENS")
    group.add_argument("--target-length", type=int, metavar="TOKENS", help="or entry of a table")
    group.add_argument("--start-tokens", type=int, metavar="TOKENS")
    group.add_argument("--attention-scale", type=float, metavar="NUMBER")
    group.add_argument("--theta", type=float, metavar="NUMBER", help="rope_theta of the model")
    group.add_argument("--partial-rotary-factor", type=float, metavar="NUMBER")
    group.add_argument("--short-set", action="store_true", help="short_factor of a config")


def _load(path: Path, options: argparse.Namespace) -> Loaded:
    """Read a file of factors and print its warnings."""
    if options.theta is not None and not options.theta > 1:
        raise UserError(f"--theta {options.theta:g}: a rotary base is above 1; see rope_theta.")
    stated = StatedFacts(
        original_length=options.original_length,
        target_length=options.target_length,
        num_start_tokens=options.start_tokens,
        attention_scale=options.attention_scale,
        rope_theta=options.theta,
        partial_rotary_factor=options.partial_rotary_factor,
        short=options.short_set,
    )
    loaded = read(path, options.source, stated)
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
    loaded = read(
        path, stated=StatedFacts(original_length=length, target_length=length, short=True)
    )
    _warn(loaded.notes)
    return loaded.factors


# Compare ------------------------------------------------------------------------------------------


def _compare(options: argparse.Namespace) -> None:
    first, second = [(str(path), _load(path, options).factors) for path in options.files]
    print("\n".join([*comparison(first, second)]))


def comparison(first: Named, second: Named) -> list[str]:
    """Return the lines of a comparison: facts, factors by pair, and their distance.

    Raises:
        UserError: if they have different numbers of pairs.
    """
    (name_a, a), (name_b, b) = first, second
    if len(a.factors) != len(b.factors):
        raise UserError(
            f"{name_a} has {len(a.factors)} factors and {name_b} {len(b.factors)}; compare sets of "
            "models with equally many rotary pairs."
        )
    return [_facts(first, second), "", _pairs(a, b), "", _difference(a, b)]


def _facts(first: Named, second: Named) -> str:
    (name_a, a), (name_b, b) = first, second
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
    # matplotlib, which no other verb needs
    from longrope.reports.figures import factors, style

    output: Path = options.output
    if output.suffix not in style.PICTURES:
        kinds = ", ".join(style.PICTURES)
        raise UserError(f"{output}: no kind of picture; end it in one of {kinds}.")
    sets = with_theta([(str(path), _load(path, options).factors) for path in options.files])
    _refuse_single(sets)
    try:
        style.save(factors.figure_of_files(sets), output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}.") from None


def _refuse_single(sets: Sequence[Named]) -> None:
    for name, factors in sets:
        if len(factors.factors) < 2:
            raise UserError(f"{name} has a single factor, which makes no curve.")


def with_theta(sets: Sequence[Named]) -> list[Named]:
    """Return sets that all state their rotary base; one that does not gets that of the others.

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
