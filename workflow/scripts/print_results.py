"""Print the perplexity table of a configuration for the eye, and where all of its results are.

One block per corpus, a row per method, a column per length.
"""

import sys
from pathlib import Path

import arguments
from print_report_folder import planned, report_folder

from longrope.errors import UserError
from longrope.reports import pivots
from longrope.reports.tables import read_table


def results(config: Path) -> str:
    """Return the text printed at the end of a run.

    Raises:
        UserError: if the results of the configuration are not there.
    """
    plan, store = planned(config)
    folder = report_folder(plan, store)
    if not (folder / "tables" / "cost.csv").is_file():
        raise UserError(f"{folder} has no tables yet; run snakemake on {config} first.")
    perplexity = folder / "tables" / "perplexity.csv"
    said = [f"{config} evaluates no perplexity."]
    if any(node.task == "perplexity" for node in plan):
        said = [pivots.to_text(pivots.perplexity(read_table(perplexity)))]
    said += ["", f"Tables   {store}/tables/{plan.experiment}"]
    said += [f"Figures  {store}/figures/{plan.experiment}"]
    if (folder / "report.html").is_file():
        said += [f"Report   {store}/report.html"]
    return "\n".join([*said, f"All in   {folder}"])


if __name__ == "__main__":
    try:
        print(results(arguments.parse().config))
    except UserError as error:
        sys.exit(f"longrope: error: {error}")
