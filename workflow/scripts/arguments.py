"""The one command line of all scripts: what is read (plan, table, configuration) and what is written.

Scripts are started by a rule's `shell:`, not `script:`, because Snakemake does not quote its interpreter's
path there and fails in a folder whose name has a space.
"""

import argparse
from pathlib import Path

NAMES = ("config", "plan", "table", "hardware-table", "csv", "markdown", "svg", "png", "html")


def parse() -> argparse.Namespace:
    """Return the paths given as `--plan PATH`, `--csv PATH` and so on; None for those not given."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path)
    return parser.parse_args()
