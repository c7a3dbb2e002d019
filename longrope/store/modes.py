"""File modes in a store: those of new files, so that all users with access can share it.

Some libraries, such as safetensors, create files that only their owner can read. The umask, or the default
access list of a directory, determines the mode that a new file should have.
"""

import os
import stat
import uuid
from pathlib import Path


def share(folder: Path) -> None:
    """Give everything that this user owns in a folder the modes of new files and directories there.

    The set-group-ID bits of directories stay. Links, and what other users own, are left alone.
    """
    file_mode, folder_mode = _modes_of_new(folder)
    for parent, _, names in os.walk(folder):
        _set(Path(parent), folder_mode)
        for name in names:
            _set(Path(parent, name), file_mode)


def _modes_of_new(folder: Path) -> tuple[int, int]:
    """Return the modes of a new file and a new directory, by making them: reading the umask sets it."""
    probe = folder / f"_probe-{uuid.uuid4().hex}"
    probe.touch()
    file_mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    probe.mkdir()
    folder_mode = stat.S_IMODE(probe.stat().st_mode)
    probe.rmdir()
    return file_mode, folder_mode & 0o777


def _set(path: Path, mode: int) -> None:
    now = path.lstat()
    if stat.S_ISLNK(now.st_mode) or now.st_uid != os.geteuid():
        return
    special = stat.S_IMODE(now.st_mode) & ~0o777 if stat.S_ISDIR(now.st_mode) else 0
    if stat.S_IMODE(now.st_mode) != special | mode:
        path.chmod(special | mode)
