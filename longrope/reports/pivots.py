"""Tables for the eye: methods down, lengths or tasks across, the best of a column in bold, spread in small.

Made of the long tables that are written as CSV. Equal numbers, as shown, are best together.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from longrope.reports import products, tables
from longrope.reports.seeds import mean_and_ends
from longrope.reports.tables import escaped, grid

SEEDS = "lowest and highest of the seeds"


class Cell(NamedTuple):
    """One number as it is shown."""

    text: str
    merit: float = math.nan
    """compared within a column: the greatest is best, unless it is not finite"""
    spread: str = ""


class Block(NamedTuple):
    """One table with its title."""

    title: str
    legend: str
    """meaning of bold and small"""
    rows: Mapping[str, Mapping[str, Cell]]
    """label of the row -> heading of the column -> cell; missing cells are absent"""
    columns: Sequence[str]
    corner: str = "method"


# Forms ------------------------------------------------------------------------------------------


def markdown(product: products.Product, table: pd.DataFrame) -> str:
    """Return the table of a product as Markdown: its blocks, or the long form if it has none."""
    if not product.blocks:
        return tables.to_markdown(table)
    return to_markdown(products.function(product.blocks)(table))


def to_markdown(blocks: Iterable[Block]) -> str:
    """Return the blocks as Markdown tables, each under its title and legend."""
    return "\n".join(f"{block.title}. {block.legend}\n\n{_table(block)}" for block in blocks)


def _table(block: Block) -> str:
    best = {column: _best(block, column) for column in block.columns}
    rows = [
        [label, *(_marked(cells.get(column), best[column]) for column in block.columns)]
        for label, cells in block.rows.items()
    ]
    right = [False] + [True] * len(block.columns)
    return grid([block.corner, *block.columns], right, [[*map(escaped, row)] for row in rows])


def _best(block: Block, column: str) -> float:
    """Return the greatest merit in a column, NaN if nothing in it is compared."""
    merits = [row[column].merit for row in block.rows.values() if column in row]
    return max(filter(math.isfinite, merits), default=math.nan)


def _marked(cell: Cell | None, best: float) -> str:
    if cell is None:
        return ""
    text = f"**{cell.text}**" if cell.merit == best else cell.text
    return f"{text} <sub>{cell.spread}</sub>" if cell.spread else text


def to_text(blocks: Iterable[Block]) -> str:
    """Return the blocks for a terminal, without marks and spread."""
    return "\n\n".join(f"{block.title}\n{_lines(block)}" for block in blocks)


def _lines(block: Block) -> str:
    texts = {
        label: {column: cell.text for column, cell in cells.items()}
        for label, cells in block.rows.items()
    }
    table = pd.DataFrame.from_dict(texts, orient="index", columns=list(block.columns), dtype=str)
    return table.to_string(na_rep="-")


# Tables -----------------------------------------------------------------------------------------


def perplexity(table: pd.DataFrame) -> list[Block]:
    """Return a block per corpus: perplexity with its interval, methods by lengths."""
    alike = ["corpus", "stand_in", "protocol", "bos"]
    legend = f"Lowest in bold, {_small(table, '95 % interval over documents')} in small."
    return [
        _pivoted(_perplexity_title(rows), legend, _labelled(rows), "length", _perplexity_cell)
        for _, rows in table.groupby(alike, sort=False, dropna=False)
    ]


def _perplexity_title(rows: pd.DataFrame) -> str:
    corpus, stand_in, protocol, bos = rows[["corpus", "stand_in", "protocol", "bos"]].iloc[0]
    name = f"{corpus} (stand-in: {stand_in})" if stand_in else corpus
    documents = f"{_range(rows['documents'])} documents"
    return f"Perplexity on {name}, protocol {protocol}, BOS {bos}, {documents}{_seeds(rows)}"


def _perplexity_cell(rows: pd.DataFrame) -> Cell | None:
    if "seed" in rows.columns:
        return _lowest_best(_number(*mean_and_ends(rows["ppl"])))
    row = rows.iloc[0]
    return _lowest_best(_number(row["ppl"], row["ppl_low"], row["ppl_high"]))


def passkey(table: pd.DataFrame) -> list[Block]:
    """Return a block of the passkeys retrieved at all depths together, methods by lengths."""
    together = "all depths and seeds together" if "seed" in table.columns else "all depths together"
    title = f"Passkeys retrieved, {together}"
    legend = f"Best in bold, {_small(table, 'share')} in small."
    return [
        _pivoted(f"{title}, BOS {bos}", legend, _labelled(rows), "length", _passkey_cell)
        for bos, rows in table.groupby("bos", sort=False)
    ]


def _passkey_cell(rows: pd.DataFrame) -> Cell | None:
    correct, trials = int(rows["correct"].sum()), int(rows["trials"].sum())
    if not trials:
        return None
    shares = [correct / trials]
    if "seed" in rows.columns:
        sums = rows.groupby("seed", dropna=False)[["correct", "trials"]].sum()
        shares = sorted({*(sums["correct"] / sums["trials"])})
    spread = " to ".join(f"{100 * share:.3g} %" for share in (shares[0], *shares[1:][-1:]))
    return Cell(f"{correct}/{trials}", correct / trials, spread)


def multiple_choice(table: pd.DataFrame) -> list[Block]:
    """Return a block of multiple-choice results with their standard errors, methods by tasks.

    Its last row is the value of guessing.
    """
    legend = f"Highest in bold, {_small(table, 'standard error')} in small."
    blocks = []
    for bos, rows in table.groupby("bos", sort=False):
        headed = _labelled(rows).assign(heading=_task_headings(rows))
        title = f"Multiple choice, BOS {bos}{_task_stand_ins(rows)}{_seeds(rows)}"
        block = _pivoted(title, legend, headed, "heading", _multiple_choice_cell)
        guessing = _pivoted("", "", headed.assign(row="guessing"), "heading", _chance_cell)
        blocks.append(block._replace(rows={**block.rows, **guessing.rows}))
    return blocks


def _task_headings(rows: pd.DataFrame) -> list[str]:
    columns = (rows[name] for name in ("task", "metric", "few_shot", "items"))
    return [
        f"{task} {metric}, {few_shot}-shot, {items} items"
        for task, metric, few_shot, items in zip(*columns, strict=True)
    ]


def _task_stand_ins(rows: pd.DataFrame) -> str:
    stand_ins = rows[rows["stand_in"] != ""].drop_duplicates(["task", "stand_in"])
    pairs = zip(stand_ins["task"], stand_ins["stand_in"], strict=True)
    return "".join(f", {task} (stand-in: {stand_in})" for task, stand_in in pairs)


def _multiple_choice_cell(rows: pd.DataFrame) -> Cell | None:
    value, low, high = mean_and_ends(rows["value"])
    if math.isnan(value):
        return None
    stderr = rows["stderr"].iloc[0]
    spread = "" if "seed" in rows.columns or math.isnan(stderr) else f"± {stderr:.3f}"
    if not math.isnan(low):
        spread = f"[{low:.3f}, {high:.3f}]"
    return Cell(f"{value:.3f}", round(value, 3), spread)


def _chance_cell(rows: pd.DataFrame) -> Cell | None:
    chance = rows["chance"].dropna()
    return Cell(f"{chance.iloc[0]:.3f}") if len(chance) else None


def searches(table: pd.DataFrame) -> list[Block]:
    """Return blocks of a study over its seeds, algorithms by lengths."""
    seeds = f"mean of {_range(table.groupby(['algorithm', 'length']).size())} seeds"
    named = table.rename(columns={"algorithm": "row"})
    blocks = [
        _pivoted(
            f"Perplexity on the held-out documents, {seeds}",
            f"Lowest in bold, {SEEDS} in small.",
            named,
            "length",
            lambda rows: _lowest_best(_number(*mean_and_ends(rows["heldout_ppl"]))),
        ),
        _pivoted(
            f"Scored tokens, {seeds}",
            f"{SEEDS.capitalize()} in small.",
            named,
            "length",
            lambda rows: _number(*mean_and_ends(rows["scored_tokens"])),
        ),
    ]
    return [block._replace(corner="algorithm") for block in blocks]


# Cells ------------------------------------------------------------------------------------------


def _pivoted(
    title: str,
    legend: str,
    table: pd.DataFrame,
    across: str,
    cell: Callable[[pd.DataFrame], Cell | None],
) -> Block:
    """Return a block with a cell of the lines of the table that share a label in `row` and a column."""
    rows: dict[str, dict[str, Cell]] = {str(label): {} for label in table["row"].unique()}
    for (label, column), lines in table.groupby(["row", across], sort=False):
        made = cell(lines)
        if made is not None:
            rows[str(label)][str(column)] = made
    return Block(title, legend, rows, [*map(str, sorted(table[across].unique()))])


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the label of each row; a tuned model has a row beside the method's."""
    tuned = table["variant"].map({"base": "", "tuned": ", tuned"})
    return table.assign(row=table["method"] + tuned)


def _small(table: pd.DataFrame, usual: str) -> str:
    """Return the meaning of what stands in small."""
    return SEEDS if "seed" in table.columns else usual


def _seeds(rows: pd.DataFrame) -> str:
    """Return the end of a title of means over seeds."""
    return f", mean of {rows['seed'].nunique()} seeds" if "seed" in rows.columns else ""


def _number(value: float, low: float, high: float) -> Cell | None:
    """Return a number that nothing is compared with and the ends of its spread; none if it is missing."""
    if math.isnan(value):
        return None
    return Cell(shown(value), spread="" if math.isnan(low) else f"[{shown(low)}, {shown(high)}]")


def _lowest_best(cell: Cell | None) -> Cell | None:
    return cell and cell._replace(merit=-float(cell.text))


def shown(value: float) -> str:
    """Return four significant digits of the six in the CSV, or all that stand before the point."""
    value = float(f"{value:.6g}")
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.4g}"
    return f"{value:.0f}" if abs(value) >= 9999.5 else f"{value:#.4g}".rstrip(".")


def _range(counts: "pd.Series[int]") -> str:
    fewest, most = counts.min(), counts.max()
    return f"{most}" if fewest == most else f"{fewest} to {most}"
