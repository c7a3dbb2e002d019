"""Tabulate what each node of the plan cost, beside what it was estimated to cost."""

from pathlib import Path

import arguments
import pandas as pd

from longrope.reports.costs import cost_table, stage_table
from longrope.settings.hardware import read_machine
from longrope.reports.lineage import full_note
from longrope.reports.tables import to_markdown, write_table
from longrope.reports.results import PlanFile, read_plan, store_of


def tabulate(
    plan_file: Path, store: Path, csv: Path, markdown: Path, hardware_table: Path | None = None
) -> None:
    """Write the table of a plan's nodes in `store` as CSV, and as Markdown below sums by stage."""
    plan = read_plan(plan_file)
    name = plan.get("hardware")
    machine = read_machine(name, hardware_table) if name and hardware_table else None
    table = cost_table(plan, store, machine)
    note = full_note(plan, store, "cost") + stages(plan, table)
    write_table(table, csv, markdown, note=note)


def stages(plan: PlanFile, table: pd.DataFrame) -> str:
    """Return the sums by stage as Markdown, or nothing where there are no estimates."""
    sums = stage_table(table)
    if sums.empty:
        return ""
    said = f"Estimates are for the machine `{plan.get('hardware')}` of the table of hardware."
    return f"\n\n{said}\n\n{to_markdown(sums)}".rstrip("\n")


if __name__ == "__main__":
    paths = arguments.parse()
    tabulate(paths.plan, store_of(paths.plan), paths.csv, paths.markdown, paths.hardware_table)
