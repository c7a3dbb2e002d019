"""Tabulate which nodes stand behind each table and figure, and what made them."""

from pathlib import Path

import arguments

from longrope.reports.lineage import provenance_table
from longrope.reports.tables import write_table
from longrope.reports.results import model_note, read_plan, store_of


def tabulate(plan_file: Path, store: Path, csv: Path, markdown: Path) -> None:
    """Write the table of a plan's nodes in `store` as CSV and Markdown."""
    plan = read_plan(plan_file)
    write_table(provenance_table(plan, store), csv, markdown, note=model_note(plan))


if __name__ == "__main__":
    paths = arguments.parse()
    tabulate(paths.plan, store_of(paths.plan), paths.csv, paths.markdown)
