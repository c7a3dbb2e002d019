"""Several processes that compute one node: torchrun starts them all with the same command line.

The first claims the node, checks its inputs and commits it, as a process on its own does. It tells the
others whether there is anything to compute; they run the stage beside it in the same work folder and wait for
its end.
"""

import atexit
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from longrope.errors import UserError
from longrope.store import commit
from longrope.store.provenance import facts

KINDS = ("finetune",)
"""kinds of nodes whose stage knows what to do in several processes"""
LAUNCHER = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""variables by which a launcher tells a process its place, and which others leave behind in a shell"""
POLL = 0.2
"""seconds between looks at what the first process said"""


class Ranks:
    """The processes of a job and the rank of this one."""

    def __init__(self, rank: int, store: Any) -> None:
        self.leads = rank == 0
        self._rank = rank
        self._store = store

    @classmethod
    def of_job(cls) -> "Ranks | None":
        """Return the processes that torchrun started, None for a process on its own."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            _forget_launcher()
            return None
        if int(os.environ["WORLD_SIZE"]) == 1:
            return None
        distributed: Any = importlib.import_module("torch.distributed")

        # torchrun's own store, at which the processes of all nodes meet
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return cls(
            int(os.environ["RANK"]),
            distributed.PrefixStore("longrope", distributed.TCPStore(*place)),
        )

    def compute(
        self,
        store: Path,
        key: str,
        spec: Mapping[str, object],
        fill: Callable[[Path], None],
    ) -> None:
        """Compute one node together; arguments and errors are those of `commit.run`.

        Raises:
            UserError: if nodes of this kind are computed by one process.
        """
        if spec["kind"] not in KINDS:
            raise UserError(f"{key} is computed by one process; start it without torchrun.")
        # A message about an earlier request of the same node must not answer this one.
        topic = f"{key} {self._store.add(f'{self._rank} {key}', 1)}"
        if not self.leads:
            self._follow(topic, store / ".work" / key, fill)
            return

        def together(work: Path) -> None:
            self._store.set(f"{topic} begin", "compute")
            fill(work)

        try:
            commit.run(store, key, spec, together, facts)
        finally:
            # Set only if nothing was said: the node was there, or a mistake prevents it.
            self._store.compare_set(f"{topic} begin", "", "skip")
            self._store.set(f"{topic} end", "")

    def _follow(self, topic: str, work: Path, fill: Callable[[Path], None]) -> None:
        if self._hear(f"{topic} begin") == b"compute":
            fill(work)
        # Not before: torchrun gives processes that are left behind a few minutes only.
        self._hear(f"{topic} end")

    def _hear(self, word: str) -> bytes:
        # Asked again and again, for a signal cannot interrupt the store's own waiting.
        while not self._store.check([word]):
            time.sleep(POLL)
        said: bytes = self._store.get(word)
        return said


def end_process(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end the process with the returned exit code."""
    code = 1
    # Called last but for what was registered before, and after a traceback was written.
    atexit.register(lambda: _leave(code))
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    sys.exit(code)


def _leave(code: int) -> None:
    """End this process without the interpreter's finalization, if a stage connected it to others.

    A thread of gloo holds a tensor for a moment after its sum was waited for, and needs the interpreter's
    lock to drop it. Once the interpreter is finalizing, Python ends a thread that asks for the lock, here
    within a C++ destructor, and the process aborts: "terminate called without an active exception", exit code
    -6. Destroying the groups does not end their threads while DeepSpeed refers to them. All results are
    written by then.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.distributed.is_initialized():
        return
    if code == 0:  # after a mistake others may still wait for this process
        torch.distributed.destroy_process_group()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _forget_launcher() -> None:
    """Drop another launcher's variables, or training waits for processes that do not exist."""
    left = [name for name in LAUNCHER if os.environ.pop(name, None) is not None]
    if left:
        print(
            f"not started by torchrun: {', '.join(left)} of the environment not followed",
            file=sys.stderr,
        )
