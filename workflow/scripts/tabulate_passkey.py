"""Tabulate passkey retrieval by variant, method, length and depth."""

from pathlib import Path

import arguments

from longrope.reports.lineage import full_note
from longrope.reports.tables import passkey_table, write_table
from longrope.reports.results import read_plan, store_of


def tabulate(plan_file: Path, store: Path, csv: Path, markdown: Path) -> None:
    """Write the table of a plan's nodes in `store` as CSV and Markdown."""
    plan = read_plan(plan_file)
    note = full_note(plan, store, "passkey")
    write_table(passkey_table(plan, store), csv, markdown, note=note)


if __name__ == "__main__":
    paths = arguments.parse()
    tabulate(paths.plan, store_of(paths.plan), paths.csv, paths.markdown)
