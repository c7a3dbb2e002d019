"""Files that the operating system refuses: by an injected error, or to another user."""

import errno
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ERRORS = ("EACCES", "EIO", "ESTALE", "EMFILE", "ENOMEM")
OTHER = 12345
"""number of a user and of a group that need not exist"""


@contextmanager
def refused(path: Path, error: str, call: str = "open") -> Iterator[None]:
    """Let one call of the system fail for one path: `open`, `read`, `stat` or `listdir`."""
    number = getattr(errno, error)

    def fails(given: Any) -> bool:
        return isinstance(given, str | os.PathLike) and Path(given).absolute() == path.absolute()

    def patched(name: str, original: Any) -> Any:
        def wrapper(given: Any, *arguments: Any, **options: Any) -> Any:
            if fails(given) and name == call:
                raise OSError(number, os.strerror(number), str(given))
            stream = original(given, *arguments, **options)
            return _Failing(stream, number) if fails(given) and call == "read" else stream

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", patched("open", io.open))
        for name in ("stat", "listdir"):
            patch.setattr(os, name, patched(name, getattr(os, name)))
        yield


class _Failing:
    """A stream that was opened and cannot be read: its error names no file."""

    def __init__(self, stream: Any, number: int) -> None:
        self._stream, self._number = stream, number

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("read"):
            raise OSError(self._number, os.strerror(self._number))
        return getattr(self._stream, name)


def require_root() -> None:
    """Skip a test that has to act as other users."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as other users")


@contextmanager
def open_folder() -> Iterator[Path]:
    """Yield an empty folder that every user reaches: pytest's own are for their owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="longrope-shared-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


AS_ANOTHER_USER = """
import os, sys
from longrope.cli import main as cli
from longrope.data import token_store as corpora
from longrope.store import score_memory as memory  # while the files of Python can still be read
uid, gid, umask = map(int, sys.argv[1:4])
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
os.umask(umask)
exec(sys.argv[4])
"""


def as_user(
    uid: int, code: str, *arguments: str, gid: int = OTHER, umask: int = 0o022
) -> subprocess.CompletedProcess[str]:
    """Run Python code as another user, with the command line imported as `cli`."""
    numbers = [str(uid), str(gid), str(umask)]
    command = [sys.executable, "-c", AS_ANOTHER_USER, *numbers, code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def longrope_as(uid: int, *arguments: str, **who: int) -> subprocess.CompletedProcess[str]:
    """Run the command line as another user, in the working directory."""
    return as_user(uid, "sys.exit(cli.main(sys.argv[5:]))", *arguments, **who)
