"""Atomic outputs: a node is computed in a work directory and committed by one rename, manifest last.

Top-level files whose names begin with an underscore are resume state: kept through a kill, never committed.
Independent of language models: a node is its key, its specification and a function that fills a folder.
"""

import contextlib
import errno
import json
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from longrope import reading
from longrope.errors import UserError
from longrope.store import modes
from longrope.store.atomic import write_text
from longrope.store.identity import file_digest

HEARTBEAT = 15.0
"""Seconds between signs of life of a running job; five missed ones mean that it is dead."""

Facts = Callable[[], Mapping[str, object]]


def problem(directory: Path, *, checksums: bool = True) -> str | None:
    """Return why a committed directory does not match its manifest, or None if it does.

    Raises:
        OSError: if the system refuses to read a file, which need not be damaged.
    """
    try:
        manifest = json.loads(reading.read_text(directory / "manifest.json"))
        files = {name: (at["size"], at["sha256"]) for name, at in manifest["files"].items()}
    except (*reading.ABSENT, IsADirectoryError):
        return "manifest.json is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json is not a manifest"
    done = directory / "DONE"
    if (
        reading.is_file(done)
        and reading.read_bytes(done).strip() != _digest_line(directory).encode()
    ):
        return "manifest.json has another checksum than DONE says"
    wrong = (
        f"{name} {reason}"
        for name, (size, sha256) in files.items()
        if (reason := _mismatch(directory / name, size, sha256 if checksums else None))
    )
    return next(wrong, None)


def _mismatch(path: Path, size: int, sha256: str | None) -> str | None:
    """Return how a file differs from its manifest entry, or None; without `sha256`, only by size."""
    status = reading.status(path)
    if status is None or not stat.S_ISREG(status.st_mode) or status.st_size != size:
        return "is missing or has another size"
    if sha256 is not None and file_digest(path) != sha256:
        return "has another checksum"
    return None


def to_trash(store: Path, directory: Path) -> None:
    """Move a directory to the store's trash; nothing is ever deleted here."""
    trash = store / ".trash"
    trash.mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        directory.rename(trash / f"{directory.name}.{time.time_ns()}")


def require_sound(store: Path, key: str) -> Path:
    """Return a node's directory after checking it against its manifest.

    Raises:
        UserError: if it is missing or damaged; a damaged one goes to the trash, to be made again.
        OSError: if the system refuses to read it; then it stays where it is.
    """
    directory = store / key
    if not reading.is_folder(directory):
        raise UserError(f"{directory} is not there; run snakemake, which makes it first.")
    reason = problem(directory)
    if reason is not None:
        to_trash(store, directory)
        raise UserError(
            f"{directory} is damaged ({reason}); it was moved to {store / '.trash'}, "
            "run again to make it anew."
        )
    return directory


@contextlib.contextmanager
def claimed(lock: Path, heartbeat: float = HEARTBEAT) -> Iterator[Path]:
    """Hold a lock that works across hosts; yield the owner's token, which vanishes if the lock is lost.

    The lock is a directory that holds one token named after its owner. It is taken by renaming a
    private directory to it, which fails while a token is inside. Tokens are refreshed, checked and
    removed by name, so that no process touches the lock of another owner by mistake.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    token = lock / uuid.uuid4().hex
    private = lock.with_name(f"{lock.name}.{token.name}")
    private.mkdir()
    try:
        (private / token.name).touch()
        _take(lock, private, heartbeat)
    except BaseException:
        shutil.rmtree(private, ignore_errors=True)
        raise
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(token, stop, heartbeat), daemon=True)
    beat.start()
    try:
        yield token
    finally:
        stop.set()
        beat.join()
        # Another owner may take the lock as soon as the token is gone: then it is not empty.
        with contextlib.suppress(OSError):
            token.unlink()
            lock.rmdir()


def _take(lock: Path, private: Path, heartbeat: float) -> None:
    waiting = False
    while True:
        try:
            private.rename(lock)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        if not _remove_stale(lock, private, heartbeat):
            if not waiting:
                print(f"{lock} is held by another process: waiting for it", flush=True)
            waiting = True
            time.sleep(min(1.0, heartbeat / 4))


def _beat(token: Path, stop: threading.Event, heartbeat: float) -> None:
    while not stop.wait(heartbeat):
        with contextlib.suppress(OSError):  # a network file system may fail once
            os.utime(token)


def _remove_stale(lock: Path, private: Path, heartbeat: float) -> bool:
    """Remove the tokens of owners without recent signs of life; return whether there were any."""
    removed = False
    with contextlib.suppress(FileNotFoundError):
        mine = private / private.name.rpartition(".")[2]
        mine.touch()
        # Both times are the file system's: clocks of hosts may differ.
        now = mine.stat().st_mtime
        for token in lock.iterdir():
            if now - token.stat().st_mtime > 5 * heartbeat:
                token.unlink()
                removed = True
    return removed


def run(
    store: Path,
    key: str,
    spec: Mapping[str, object],
    compute: Callable[[Path], None],
    facts: Facts,
) -> Path:
    """Compute one node unless it is already there and sound; return its directory.

    Args:
        store: root of the results.
        key: `{kind}/{label}-{digest12}`.
        spec: what the node is, for the manifest.
        compute: fills an empty, or half-filled and resumable, work directory.
        facts: called after computing, for further entries of the manifest.

    Raises:
        UserError: if the disk is full; earlier results are untouched.
    """
    final = store / key
    work = store / ".work" / key
    try:
        with claimed(work.with_name(f"{work.name}.lock")) as token:
            if problem(final) is None:
                print(f"{final} is there and sound: verified, not computed again", flush=True)
                return _mark_done(final)
            # A sound work directory is one whose commit was interrupted.
            if problem(work) is not None:
                _compute(work, spec, compute, facts)
            if reading.status(token) is None:
                raise UserError(f"another process took {key} over meanwhile; run again.")
            _commit(store, work, final)
            return _mark_done(final)
    except Exception as error:
        if _disk_is_full(error, store):
            raise UserError(f"no space left for {work}; free some and run again.") from error
        raise


def _disk_is_full(error: Exception, store: Path) -> bool:
    """Return whether space ran out; libraries that write files raise errors of their own for it."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return store.is_dir() and shutil.disk_usage(store).free == 0


def _compute(
    work: Path, spec: Mapping[str, object], compute: Callable[[Path], None], facts: Facts
) -> None:
    work.mkdir(parents=True, exist_ok=True)
    (work / "manifest.json").unlink(missing_ok=True)
    began = time.monotonic()
    try:
        compute(work)
    finally:
        # Also after a cancelled job, so that another user can resume its work.
        modes.share(work)
    seconds = time.monotonic() - began
    files = {
        str(path.relative_to(work)): {"size": path.stat().st_size, "sha256": file_digest(path)}
        for path in sorted(work.rglob("*"))
        if path.is_file() and not path.relative_to(work).parts[0].startswith("_")
    }
    manifest = {"node": spec, "seconds": round(seconds, 3), **facts(), "files": files}
    write_text(work / "manifest.json", json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def _commit(store: Path, work: Path, final: Path) -> None:
    # Only now: until the manifest is written, a killed job resumes from them.
    for path in sorted(work.glob("_*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    final.parent.mkdir(parents=True, exist_ok=True)
    if reading.entries(final):
        to_trash(store, final)
    # Snakemake makes the directory of a declared output beforehand: rename replaces an empty one.
    os.rename(work, final)


def _mark_done(final: Path) -> Path:
    """Write DONE, the one file that Snakemake tracks: the manifest's digest."""
    line = _digest_line(final) + "\n"
    done = final / "DONE"
    # A user who only verifies a node may lack permission to write into it.
    if not reading.is_file(done) or reading.read_bytes(done) != line.encode():
        write_text(done, line)
    return final


def _digest_line(directory: Path) -> str:
    return file_digest(directory / "manifest.json")
