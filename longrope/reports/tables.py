"""Results to tables: reads what the nodes of a plan left behind and puts it in fixed columns.

Nothing here scores, trains or draws, and nothing imports torch: a table is made in a second. To add
one, write a function like `passkey_table` and its row in `longrope.reports.products`.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from longrope.errors import UserError
from longrope.plan.nodes import Node, Plan
from longrope.reports.records import (
    Document,
    HistoryLine,
    LogLine,
    MeasuredLine,
    MultipleChoiceRow,
    PasskeyRow,
    PerplexityRow,
    Scores,
    WatchedLine,
)
from longrope.reports.results import (
    Results,
    corpus_stand_in,
    evaluations,
    fine_tunings,
    on_all_documents,
    read_history,
    read_lines,
    with_settings,
)
from longrope.reports.seeds import has_several
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import METHODS, Geometry
from longrope.settings.nodes import ReadjustNode, SearchNode
from longrope.store.atomic import write_text

METHOD_ORDER = (*METHODS, "longrope")
"""Rows of every table and entries of every legend stand in this order."""
PERPLEXITY_COLUMNS = (
    *("corpus", "stand_in", "variant", "method", "length", "protocol", "bos"),
    *("documents", "tokens", "ppl", "ppl_low", "ppl_high"),
)
PASSKEY_COLUMNS = ("variant", "method", "length", "depth", "bos", "trials", "correct")
MULTIPLE_CHOICE_COLUMNS = (
    *("variant", "method", "task", "few_shot", "bos", "items", "metric"),
    *("value", "stderr", "chance", "stand_in"),
)
CONVERGENCE_COLUMNS = (
    *("search", "length", "iteration", "origin", "start", "scored_tokens", "perplexity", "best"),
)
MEMORY_COLUMNS = ("peak_gpu_memory_mb", "resident_memory_mb", "peak_memory_so_far_mb")
TRAINING_COLUMNS = (
    *("model", "step", "loss", "learning_rate", "grad_norm", "tokens_per_second"),
    *MEMORY_COLUMNS,
)
WATCHED_COLUMNS = ("model", "step", "length", "num_documents", "perplexity")
TEXT_COLUMNS = (
    *("corpus", "stand_in", "variant", "method", "protocol", "bos", "task", "metric"),
    *("algorithm", "baseline"),
)
RESAMPLES = 1000
START = "seed:"
"""Begins the origin of what a search starts from."""


# Tables -----------------------------------------------------------------------------------------


def perplexity(documents: Sequence[Document]) -> float:
    """Return exp(sum of nats / sum of tokens): a long document weighs more than a short one."""
    tokens = sum(document["tokens"] for document in documents)
    if not tokens:
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.exp(sum(document["nll"] for document in documents) / tokens))


def bootstrap_interval(documents: Sequence[Document], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the perplexity over documents.

    Documents are redrawn, not tokens: tokens of one document are not independent. Equal seeds
    redraw the same documents for every method. A handful of documents gives too narrow an interval.

    Returns:
        lower and upper end; NaN for fewer than two documents, which say nothing about their spread.
    """
    if len(documents) < 2:
        return math.nan, math.nan
    nats = np.array([document["nll"] for document in documents])
    tokens = np.array([document["tokens"] for document in documents])
    drawn = np.random.default_rng(seed).integers(len(nats), size=(RESAMPLES, len(nats)))
    with np.errstate(over="ignore", invalid="ignore"):
        # Quantiles pass through exp, and the mean nats cannot overflow.
        means = nats[drawn].sum(axis=1) / tokens[drawn].sum(axis=1)
        low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    return float(low), float(high)


def perplexity_table(results: Results) -> pd.DataFrame:
    """Return one row per corpus, variant, method and length, with its interval."""
    results_of_nodes: list[tuple[Node, Scores[PerplexityRow]]] = evaluations(results, "perplexity")
    rows = [
        {
            "corpus": row["corpus"],
            "stand_in": corpus_stand_in(results.plan, node, row["corpus"]),
            "length": row["length"],
            "protocol": scores["protocol"],
            **_use(node, scores),
            **_perplexity_cells(row["documents"]),
        }
        for node, scores in results_of_nodes
        for row in scores["rows"]
    ]
    order = ["corpus", "variant", "method", "length"]
    return _table(results, rows, PERPLEXITY_COLUMNS, order)


def _use(node: Node, scores: Scores[Any]) -> dict[str, Any]:
    """Return the cells on how a model was used, and the seed."""
    use = {"variant": scores["variant"], "method": scores["method"], "bos": scores["bos"]}
    return {**use, "seed": node.seed}


def _perplexity_cells(documents: Sequence[Document]) -> dict[str, float]:
    low, high = bootstrap_interval(documents)
    return {
        "documents": len(documents),
        "tokens": sum(document["tokens"] for document in documents),
        "ppl": perplexity(documents),
        "ppl_low": low,
        "ppl_high": high,
    }


def passkey_table(results: Results) -> pd.DataFrame:
    """Return one row per variant, method, length and depth."""
    results_of_nodes: list[tuple[Node, Scores[PasskeyRow]]] = evaluations(results, "passkey")
    rows = [
        {**row, **_use(node, scores)} for node, scores in results_of_nodes for row in scores["rows"]
    ]
    return _table(results, rows, PASSKEY_COLUMNS, ["variant", "method", "length", "depth"])


def multiple_choice_table(results: Results) -> pd.DataFrame:
    """Return one row per variant, method and task; a task without items has no value."""
    results_of_nodes: list[tuple[Node, Scores[MultipleChoiceRow]]] = evaluations(
        results, "benchmarks"
    )
    rows = [
        {**row, **_use(node, scores), "stand_in": row["stand_in"] or ""}
        for node, scores in results_of_nodes
        for row in scores["rows"]
    ]
    order = ["variant", "method", "task", "metric"]
    table = _table(results, rows, MULTIPLE_CHOICE_COLUMNS, order)
    return table.astype({"value": float, "stderr": float, "chance": float})


def _table(
    results: Results, rows: Sequence[dict[str, Any]], columns: Sequence[str], order: list[str]
) -> pd.DataFrame:
    """Return the columns asked for, sorted; methods stand in METHOD_ORDER, all else ascends.

    The seed comes last, where the experiment has several; what none reaches has no seed.
    """
    seed = ["seed"] * has_several(results.plan)
    table = pd.DataFrame(list(rows), columns=[*columns, *seed]).astype(dict.fromkeys(seed, "Int64"))
    return table.sort_values([*order, *seed], key=_rank, kind="stable", ignore_index=True)


def _rank(column: "pd.Series[Any]") -> "pd.Series[Any]":
    if column.name != "method":
        return column
    return column.map({method: rank for rank, method in enumerate(METHOD_ORDER)})


# Searches ---------------------------------------------------------------------------------------


class Searched(NamedTuple):
    """A factor set and where it was searched."""

    stage: Literal["base", "tuned", "readjusted"]
    where: str
    """name of the model that was scored, and what had been done to it"""
    factors: RopeFactors


def searched_factors(results: Results) -> list[Searched]:
    """Return every factor set that was searched, with where it was searched, by length."""
    store, plan = results.store, results.plan
    searched = [
        Searched(
            *_searched_where(plan, settings), RopeFactors.read(store / node.key / "factors.json")
        )
        for node, settings in with_settings(plan, SearchNode)
    ]
    for node, settings in with_settings(plan, ReadjustNode):
        entries = FactorTable.read(store / node.key / "factor_table.json").entries
        # The other entries of the table are those of the searches above.
        chosen = [entry for entry in entries if entry.target_length in settings.lengths]
        searched += [Searched(*_searched_where(plan, settings), entry) for entry in chosen]
    return sorted(searched, key=lambda item: (item.factors.target_length, item.where))


def _searched_where(
    plan: Plan, settings: SearchNode | ReadjustNode
) -> tuple[Literal["base", "tuned", "readjusted"], str]:
    """Return whether a search scored the base model or a tuned one, its name, and its seed of several."""
    seed = f", seed {settings.seed}" * has_several(plan)
    if isinstance(settings, ReadjustNode):
        return "readjusted", f"{settings.model}, readjusted{seed}"
    if settings.source_length == settings.original_length:
        return "base", settings.model + seed
    return "tuned", f"{settings.model}, tuned at {settings.source_length:,} tokens{seed}"


def geometry_of(factors: RopeFactors) -> Geometry:
    """Return the rotary geometry of the model that factors were searched for.

    Raises:
        UserError: if they do not say its rotary base.
    """
    if factors.rope_theta is None:
        raise UserError(
            f"the factors for {factors.target_length} tokens do not say their rope_theta; search again."
        )
    return Geometry(
        num_pairs=len(factors.factors),
        rope_theta=factors.rope_theta,
        original_length=factors.original_length,
    )


def convergence_table(results: Results) -> pd.DataFrame:
    """Return one row per candidate scored on all documents of its search, with the best so far.

    On fewer documents, perplexities depend on which these are, and do not compare. `start` names what the
    search started from, where the candidate is that: a start may be scored on all documents later.
    """
    rows = [
        {"search": name, "length": length} | line | {"start": starts.get(_values(line), "")}
        for name, length, path in _histories(results)
        for lines in [read_history(path)]
        for starts in [_starts(lines)]
        for line in on_all_documents(lines)
    ]
    table = pd.DataFrame(rows, columns=list(CONVERGENCE_COLUMNS[:-1])).astype({"perplexity": float})
    table["perplexity"] = table["perplexity"].replace(math.inf, math.nan)
    table["best"] = table.groupby(["length", "search"])["perplexity"].cummin()
    return table.sort_values(["length", "search"], kind="stable", ignore_index=True)


def _starts(lines: Sequence[HistoryLine]) -> dict[tuple[Any, ...], str]:
    """Return what a search started from by its values, as its history calls it without `seed:`."""
    begun = [line for line in reversed(lines) if line["origin"].startswith(START)]
    return {_values(line): line["origin"].removeprefix(START) for line in begun}


def _values(line: HistoryLine) -> tuple[Any, ...]:
    """Return what a candidate is, whatever it was scored on."""
    return (*line["factors"], line["num_start_tokens"], line.get("attention_scale"))


def _histories(results: Results) -> Iterator[tuple[str, int, Path]]:
    """Yield where, at which length and in which file a search was recorded."""
    for node, search in with_settings(results.plan, SearchNode):
        history = results.store / node.key / "history.jsonl"
        yield _searched_where(results.plan, search)[1], search.target_length, history
    for node, readjust in with_settings(results.plan, ReadjustNode):
        for length in readjust.lengths:
            history = results.store / node.key / f"history-{length}.jsonl"
            yield _searched_where(results.plan, readjust)[1], length, history


# Fine-tuning ------------------------------------------------------------------------------------


def training_table(results: Results) -> pd.DataFrame:
    """Return one row per fine-tuned model and step; what was not measured is missing."""
    rows = [
        row
        for node, _ in fine_tunings(results.plan)
        for row in _steps(results.store / node.key, node.label)
    ]
    table = pd.DataFrame(rows, columns=list(TRAINING_COLUMNS))
    return table.astype(dict.fromkeys(TRAINING_COLUMNS[2:], float))


def _steps(folder: Path, model: str) -> Iterator[dict[str, Any]]:
    log: list[LogLine] = read_lines(folder / "log.jsonl")
    measured: list[MeasuredLine] = _lines(folder / "measured.jsonl")
    by_step = {line["step"]: line for line in measured}
    for line in log:
        yield {"model": model, **by_step.get(line["step"], {}), **line}


def watched_table(results: Results) -> pd.DataFrame:
    """Return one row per fine-tuned model that was watched, step and length."""
    watched: list[tuple[str, list[WatchedLine]]] = [
        (node.label, _lines(results.store / node.key / "watched.jsonl"))
        for node, _ in fine_tunings(results.plan)
    ]
    rows = [{"model": label, **line} for label, lines in watched for line in lines]
    return pd.DataFrame(rows, columns=list(WATCHED_COLUMNS)).astype({"perplexity": float})


def _lines(path: Path) -> Any:
    """Return the lines of a file that not every fine-tuning has, none without it."""
    return read_lines(path) if path.is_file() else []


# Files ------------------------------------------------------------------------------------------


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table as Markdown, numbers to six significant digits and right-aligned."""
    numeric = [pd.api.types.is_numeric_dtype(table[name]) for name in table.columns]
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return grid(list(table.columns), numeric, rows)


def grid(head: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of escaped texts; `right` tells the right-aligned columns."""
    lines = [head, ["---:" if each else "---" for each in right], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return escaped(str(value))


def escaped(text: str) -> str:
    """Return text that does not end a cell of a Markdown table."""
    return text.replace("|", "\\|")


def write_table(
    table: pd.DataFrame,
    csv: Path,
    markdown: Path,
    note: str = "",
    text: str = "",
) -> None:
    """Write a table as CSV and, with a note above it, as Markdown: `text`, or the long form.

    Six significant digits: further ones differ between machines.
    """
    write_text(csv, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text(markdown, f"{note}\n\n" * bool(note) + (text or to_markdown(table)))


def finished_table(results: Results, name: str) -> pd.DataFrame:
    """Return a table that is made already, by its name."""
    return read_table(results.tables / f"{name}.csv")


def read_table(path: Path) -> pd.DataFrame:
    """Read what `write_table` wrote; text stays text where it is empty or looks like a number."""
    text: dict[Any, Any] = dict.fromkeys(TEXT_COLUMNS, str)
    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=text)
    return table.fillna(dict.fromkeys(TEXT_COLUMNS, ""))
