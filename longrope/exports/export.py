"""Export of a model with searched factors to a new folder."""

import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from longrope import reading
from longrope.data.model_config import check_config, length_warning
from longrope.data.model_weights import check_weights
from longrope.data.tokenizers import load_encoder
from longrope.errors import UserError
from longrope.exports.card import CARD, card_text, changes_of, measurement_text
from longrope.exports.measurement import Gap, measure
from longrope.exports.registry import ExportFormat, load_format
from longrope.exports.selection import (
    Export,
    Sets,
    choose,
    require_no_start_tokens,
    require_same_model,
    without_start_tokens,
)
from longrope.exports.source import FactorSource, base_folder, read_source
from longrope.models.loading import ConfigChanges, load_geometry
from longrope.rope.factors import FactorTable, RopeFactors


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A written export."""

    folder: Path
    gaps: tuple[Gap, ...]
    """measured perplexities; empty without texts"""
    notes: tuple[str, ...]
    """sentences on what the export changes, and on the model"""
    traps: tuple[str, ...]
    """sentences on where engines misbehave with it"""

    @property
    def measured(self) -> str:
        """Measured perplexities as a table, or a sentence that there are none."""
        return measurement_text(self.gaps)


def export_model(
    model: Path | str,
    factors: RopeFactors | FactorTable | Path | str,
    to: Path | str,
    *,
    format_name: str = "huggingface",
    length: int | None = None,
    sets: Sets = "long",
    drop_start_tokens: bool = False,
    full_attention: bool = False,
    rope_scaling: str = "refuse",
    texts: Sequence[Path | str] = (),
    dtype: str = "float32",
    store: Path | str = "results",
) -> Exported:
    """Write a model with factors to a new folder that other engines run, with a model card.

    Args:
        model: folder of the model, as `load_model` takes it.
        factors: one set, a table by length, a file of either, or a node of a store.
        to: folder to write, which must not exist; it appears whole or not at all.
        format_name: of the folder, `huggingface`.
        length: target length of the entry to export; None: the longest of the table.
        sets: `long` for the same factors at every length, `both` for others up to the original length.
        drop_start_tokens: export factors that leave start tokens unscaled, without them.
        full_attention: switch a sliding window of the model off.
        rope_scaling: `drop` to leave out a linear, dynamic or yarn block of config.json.
        texts: files of long documents, to measure what the format's limits cost in perplexity.
        dtype: to measure in, name of a torch dtype.
        store: root of the results, where a node is looked for.

    Raises:
        UserError: if the target exists, the model is incomplete or not supported, the factors are of another
            model, or they cannot be exported as they are.
    """
    target, changes = (
        Path(to),
        ConfigChanges(full_attention=full_attention, rope_scaling=rope_scaling),
    )
    _require_new(target)
    source = _source(factors, Path(store))
    chosen = choose(source, length=length, sets=sets)
    if not drop_start_tokens:
        require_no_start_tokens(source, chosen)
    export, notes = _prepared(Path(model), source, sets, chosen, changes)
    engine = load_format(format_name)
    engine.check(export)
    paths = [Path(text) for text in texts]
    gaps = _measured(export, engine, paths, changes, dtype) if paths else []
    traps = engine.traps(export)
    changed = changes_of(export, source.table.entries)
    with _appearing_whole(target) as work:
        engine.write(export, work)
        card = card_text(export, format_name=format_name, gaps=gaps, traps=traps, changes=changed)
        (work / CARD).write_text(card, encoding="utf-8")
    return Exported(folder=target, gaps=tuple(gaps), notes=(*notes, *changed), traps=tuple(traps))


def _source(factors: RopeFactors | FactorTable | Path | str, store: Path) -> FactorSource:
    if isinstance(factors, Path | str):
        return read_source(str(factors), store)
    table = FactorTable(entries=(factors,)) if isinstance(factors, RopeFactors) else factors
    return FactorSource(name="the given factors", table=table)


def _prepared(
    model: Path,
    source: FactorSource,
    sets: Sets,
    chosen: tuple[RopeFactors, RopeFactors],
    changes: ConfigChanges,
) -> tuple[Export, list[str]]:
    """Return the export of checked files, and notes on the model."""
    model = model / "model" if reading.is_folder(model / "model") else model
    short, long = (without_start_tokens(factors) for factors in chosen)
    config = check_config(model, **changes)
    check_weights(model, config)
    load_encoder(model)
    geometry = load_geometry(model, long.original_length, **changes)
    require_same_model(source.name, source.table, geometry, model)
    warning = length_warning(config, long.original_length)
    export = Export(
        model=model,
        base=base_folder(model),
        config=config,
        geometry=geometry,
        source=source,
        sets=sets,
        short=short,
        long=long,
        full_attention=changes["full_attention"],
    )
    return export, [warning] if warning else []


def _measured(
    export: Export, engine: ExportFormat, texts: Sequence[Path], changes: ConfigChanges, dtype: str
) -> list[Gap]:
    """Return perplexities at the original and the target length."""
    return measure(
        export.model,
        export.source.table,
        engine.as_run(export),
        texts=texts,
        lengths=(export.long.original_length, export.long.target_length),
        dtype=dtype,
        **changes,
    )


def _require_new(target: Path) -> None:
    if os.path.lexists(target):
        raise UserError(f"{target} is there already; name another folder or remove it.")


@contextmanager
def _appearing_whole(target: Path) -> Iterator[Path]:
    """Yield a work folder beside a target, which becomes the target if the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    work.mkdir()
    try:
        yield work
        _require_new(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
