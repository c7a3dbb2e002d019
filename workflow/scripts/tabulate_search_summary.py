"""Tabulate the algorithms of a search study over its seeds, beside the evolutions."""

from pathlib import Path

import arguments

from longrope.reports.lineage import full_note
from longrope.reports.tables import read_table, write_table
from longrope.reports.results import read_plan, store_of
from longrope.reports.studies import summary_table


def tabulate(plan_file: Path, store: Path, table: Path, csv: Path, markdown: Path) -> None:
    """Write the summary of a table of all searches as CSV and Markdown."""
    note = full_note(read_plan(plan_file), store, "search_summary")
    write_table(summary_table(read_table(table)), csv, markdown, note=note)


if __name__ == "__main__":
    paths = arguments.parse()
    tabulate(paths.plan, store_of(paths.plan), paths.table, paths.csv, paths.markdown)
