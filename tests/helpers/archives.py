"""Source archives made for the tests of fetching."""

import io
import tarfile
from pathlib import Path

from longrope.data.packages import Package
from longrope.store.identity import file_digest


def write_sdist(folder: Path, name: str, members: dict[str, bytes], script: str = "") -> Package:
    """Write version 1.0 of a package to a folder and return its pin; `script` opens its setup.py."""
    path = folder / f"{name}-1.0.tar.gz"
    setup = f"{script}from setuptools import setup\nsetup(name={name!r}, version='1.0')\n"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    files = {f"{name}-1.0/setup.py": setup.encode(), f"{name}-1.0/PKG-INFO": about.encode()}
    with tarfile.open(path, "w:gz") as archive:
        for member, data in (files | members).items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return Package(
        name=name, version="1.0", file=path.name, sha256=file_digest(path), licence="none"
    )
