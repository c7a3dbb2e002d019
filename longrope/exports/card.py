"""Model card: what was extended, the factors and their origin, licence, measurements, traps."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from longrope.exports.licences import Licence, read_licence
from longrope.exports.measurement import Gap
from longrope.exports.selection import Export
from longrope.rope.factors import RopeFactors

NOT_MEASURED = (
    "The perplexity of this export was not measured: no texts were given (`--texts`); what its format "
    "cannot hold may cost something."
)
CARD = "README.md"


def card_text(
    export: Export,
    *,
    format_name: str,
    gaps: Sequence[Gap],
    traps: Sequence[str],
    changes: Sequence[str],
) -> str:
    """Return the model card.

    Args:
        export: the model and its sets.
        format_name: a key of the registry of formats.
        gaps: measured perplexities; empty if none were measured.
        traps: sentences on engines, of the format.
        changes: sentences on what the export changes of the factors as they were searched.
    """
    licence = read_licence(export.base)
    long = export.long
    sections = [
        _metadata(licence),
        f"# {export.name} with a window of {long.target_length:,} tokens",
        _introduction(export),
        f"Format: {format_name}, sets: {export.sets}.",
        *(f"**Stand-in:** {text}" for text in export.source.stand_ins),
        "## Factors",
        "\n".join(_table(export)),
        "\n".join(f"- {line}" for line in [*_origin(export), *changes]),
        "## Perplexity",
        measurement_text(gaps),
        "## Traps",
        "\n".join(f"- {sentence}" for sentence in traps),
        "## Licence",
        _licence(licence),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def measurement_text(gaps: Sequence[Gap]) -> str:
    """Return a table of measured perplexities, or a sentence that there are none."""
    return "\n".join(_measurements(gaps)) if gaps else NOT_MEASURED


def _measurements(gaps: Sequence[Gap]) -> Iterator[str]:
    yield "| tokens | texts | searched | exported | difference |"
    yield "| ---: | ---: | ---: | ---: | ---: |"
    for gap in gaps:
        yield (
            f"| {gap.length:,} | {gap.num_texts} | {gap.searched:.4f} | {gap.exported:.4f} | "
            f"{100 * gap.relative:+.2f} % |"
        )


def changes_of(export: Export, searched: Sequence[RopeFactors]) -> list[str]:
    """Return sentences on what an export changes of a table of factors.

    Args:
        export: the sets as they are exported, without start tokens.
        searched: the entries of the table.
    """
    exported = {export.long.target_length}
    if export.sets == "both":
        exported.add(export.short.target_length)
    dropped = [f"{e.target_length:,}" for e in searched if e.target_length not in exported]
    starts = [e.num_start_tokens for e in searched if e.target_length in exported]
    sentences = []
    if dropped:
        sentences.append(
            f"The factors for {', '.join(dropped)} tokens are left out: these formats hold two sets at most."
        )
    if any(starts):
        sentences.append(
            f"{max(starts)} start tokens, unscaled in the search, are scaled here: no engine has them."
        )
    if export.sets == "both" and export.short.method == "none" and not export.short.provenance:
        sentences.append("Up to the original length it is the pretrained embedding.")
    return sentences


def _metadata(licence: Licence) -> str:
    """Return the front matter that the hub reads."""
    content = {
        **licence.stated,
        "library_name": "transformers",
        "tags": ["longrope", "long-context"],
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _introduction(export: Export) -> str:
    long = export.long
    return (
        f"The model {export.name} ({export.config['model_type']}) with its context window extended from "
        f"{long.original_length:,} to {long.target_length:,} tokens ({long.scale:g} times) by one rescale "
        "factor per rotary pair (LongRoPE, arXiv:2402.13753)."
    )


def _table(export: Export) -> Iterator[str]:
    yield "| set | used | factors | attention scale |"
    yield "| --- | --- | --- | ---: |"
    original = export.long.original_length
    if export.sets == "both":
        yield _row("short", f"up to {original:,} tokens", export.short)
        yield _row("long", f"above {original:,} tokens", export.long)
    else:
        yield _row("long, also as short", "at every length", export.long)


def _row(name: str, used: str, factors: RopeFactors) -> str:
    low, high = min(factors.factors), max(factors.factors)
    span = f"{len(factors.factors)}, from {low:.6g} to {high:.6g}"
    return f"| {name} | {used} | {span} | {factors.attention_scale:.6g} |"


def _origin(export: Export) -> Iterator[str]:
    source = export.source
    origin = f"node `{source.node}`" if source.node else f"file `{Path(source.name).name}`"
    code = f", made by the code of commit {source.commit}" if source.commit else ""
    yield f"Origin: {origin}{code}; method `{export.long.method}`."
    if export.long.provenance:
        facts = ", ".join(f"{key} {value}" for key, value in export.long.provenance.items())
        yield f"Provenance of the long set: {facts}."


def _licence(licence: Licence) -> str:
    if not licence.stated and not licence.files:
        return "The base model's folder does not state its licence: look it up before you share this one."
    named = [f"{key}: {value}" for key, value in licence.stated.items()]
    files = [f"the terms in {', '.join(licence.files)}, copied from there"] if licence.files else []
    return f"That of the base model, by its folder: {'; '.join([*named, *files])}."
