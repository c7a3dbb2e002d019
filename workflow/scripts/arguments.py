"""The one command line of all scripts: what is read (plan, table, configuration) and what is written.

Scripts are started by a rule's `shell:`, not `script:`, because Snakemake does not quote its interpreter's
path there and fails in a folder whose name has a space.
"""

import argparse
import sys
from pathlib import Path
from types import TracebackType

from longrope.errors import UserError

NAMES = ("config", "plan", "table", "hardware-table", "csv", "markdown", "svg", "png", "html")


def parse() -> argparse.Namespace:
    """Return the paths given as `--plan PATH`, `--csv PATH` and so on; None for those not given.

    From here on the script ends in one sentence on a mistake that its user can correct.
    """
    sys.excepthook = _one_sentence
    parser = argparse.ArgumentParser(description=__doc__)
    for name in NAMES:
        parser.add_argument(f"--{name}", type=Path)
    return parser.parse_args()


def _one_sentence(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if isinstance(error, UserError):
        print(f"longrope: error: {error}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
