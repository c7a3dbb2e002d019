"""Print the perplexity table for the eye: one block per corpus, a row per method, a column per length."""

import arguments
import pandas as pd

from longrope.reporting import read_table


def blocks(table: pd.DataFrame) -> str:
    """Return the table as text; a corpus that is a stand-in says so above its block."""
    parts = []
    for (corpus, stand_in), rows in table.groupby(["corpus", "stand_in"], sort=False, dropna=False):
        title = f"Perplexity on {corpus}"
        if isinstance(stand_in, str) and stand_in:
            title += f" (stand-in: {stand_in})"
        order = rows[["variant", "method"]].drop_duplicates()
        wide = rows.pivot(index=["variant", "method"], columns="length", values="ppl")
        wide = wide.reindex(pd.MultiIndex.from_frame(order))
        protocol, bos = (", ".join(sorted(set(rows[name]))) for name in ("protocol", "bos"))
        text = wide.to_string(float_format=lambda value: f"{value:.4g}", na_rep="-")
        parts.append(f"{title}, protocol {protocol}, BOS {bos}\n{text}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    print(blocks(read_table(arguments.parse().table)))
