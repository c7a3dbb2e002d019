"""The command line as a process, `python -m longrope`."""

import sys
from typing import NoReturn


def process() -> NoReturn:
    """Run one verb as all that this process does; Ctrl-C ends it without a traceback from the start."""
    try:
        # Here, since what it imports takes seconds.
        from longrope.cli.main import process as run
    except KeyboardInterrupt:
        print("longrope: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    process()
