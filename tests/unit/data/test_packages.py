"""Texts inside pinned packages: downloading with pip from a local index, reading members."""

import io
import sys
import tarfile
import zipfile

import pytest
from archives import write_sdist
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from longrope.data import packages
from longrope.data.packages import Catalogue, Package, download, read_document, read_member
from longrope.errors import UserError
from longrope.store.identity import file_digest


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the whole index."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_CACHE_DIR": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def folder(tmp_path):
    """The folder of downloaded archives."""
    (tmp_path / "packages").mkdir()
    return tmp_path / "packages"


def make_wheel(index, name="texts"):
    """Write a wheel of one text to the index; return its pin."""
    path = index / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/poem.txt", "Tyger Tyger, burning bright,\r\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return Package(
        name=name, version="1.0", file=path.name, sha256=file_digest(path), licence="public domain"
    )


def refusal(package, folder):
    """Return the sentence with which a download is refused; nothing may be left of it."""
    with pytest.raises(UserError) as caught:
        download(package, folder)
    assert list(folder.iterdir()) == []
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# Downloading --------------------------------------------------------------------------------------


def test_a_wheel_with_the_pinned_bytes_is_kept(index, folder):
    package = make_wheel(index)
    path = download(package, folder)
    assert path == folder / "texts-1.0-py3-none-any.whl"
    assert file_digest(path) == package.sha256
    assert [entry.name for entry in folder.iterdir()] == [path.name]


def test_a_source_archive_with_the_pinned_bytes_is_kept(index, folder):
    package = write_sdist(index, "sources", {"sources-1.0/poem.txt": b"Tyger"})
    assert read_member(download(package, folder), "sources-1.0/poem.txt") == b"Tyger"


def test_an_archive_that_is_there_is_not_asked_for_again(index, folder):
    package = make_wheel(index)
    download(package, folder)
    (index / package.file).unlink()
    assert download(package, folder).is_file()


def test_a_damaged_archive_is_downloaded_again(index, folder):
    package = make_wheel(index)
    download(package, folder).write_bytes(b"damaged")
    assert file_digest(download(package, folder)) == package.sha256


def test_a_wheel_with_other_bytes_is_refused_and_nothing_is_left(index, folder):
    package = make_wheel(index).model_copy(update={"sha256": "0" * 64})
    sentence = refusal(package, folder)
    assert "package texts==1.0 could not be downloaded (ERROR: THESE PACKAGES DO NOT" in sentence


def test_a_source_archive_with_other_bytes_never_runs(index, folder, tmp_path):
    marker = tmp_path / "ran"
    script = f"open({str(marker)!r}, 'w').close()\n"
    package = write_sdist(index, "hostile", {}, script=script)
    refusal(package.model_copy(update={"sha256": "0" * 64}), folder)
    assert not marker.exists()
    download(package, folder)
    assert marker.exists(), "pip runs it once it is known, so the test would have seen it run"


def test_a_package_that_the_index_lacks_is_refused(index, folder):
    package = make_wheel(index).model_copy(update={"name": "nowhere"})
    sentence = refusal(package, folder)
    assert "package nowhere==1.0 could not be downloaded (ERROR: " in sentence
    assert sentence.endswith("check the network and pip's index settings, then run again.")


def test_a_python_without_pip_is_named(index, folder, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    assert "(No module named pip)" in refusal(make_wheel(index), folder)


def test_an_archive_can_be_asked_for_another_python(index, folder):
    package = make_wheel(index)
    renamed = index / "texts-1.0-cp38-none-any.whl"
    (index / package.file).rename(renamed)
    package = package.model_copy(update={"file": renamed.name})
    refusal(package, folder)
    assert download(package.model_copy(update={"python": "3.8"}), folder).name == renamed.name


# Reading ------------------------------------------------------------------------------------------


def test_a_member_is_read_from_wheels_and_source_archives_alike(index):
    make_wheel(index)
    sdist = write_sdist(index, "sources", {"sources-1.0/poem.txt": b"Tyger"})
    wheel = index / "texts-1.0-py3-none-any.whl"
    assert read_member(wheel, "texts/poem.txt") == b"Tyger Tyger, burning bright,\r\n"
    assert read_member(index / sdist.file, "sources-1.0/poem.txt") == b"Tyger"
    for archive in (wheel, index / sdist.file):
        with pytest.raises(UserError, match="has no member none; correct the catalogue entry"):
            read_member(archive, "none")


def test_a_folder_inside_an_archive_is_no_member(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        entry = tarfile.TarInfo("folder")
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    with pytest.raises(UserError, match="has no member folder"):
        read_member(tmp_path / "a.tar.gz", "folder")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"one\r\ntwo\rthree\n\n", "one\ntwo\nthree\n"),
        ("\ufeffna\u00efve".encode(), "na\u00efve\n"),
        (b"caf\xe9 \x93quoted\x94", "caf\u00e9 \u201cquoted\u201d\n"),
        (b"\x81 has no meaning", "\ufffd has no meaning\n"),
        (b"\n\n  indented", "indented\n"),
    ],
    ids=["newlines", "byte-order mark", "Windows-1252", "undefined byte", "blank lines"],
)
def test_plain_text_is_decoded(data, text):
    assert packages.READERS["text"](data) == text


@given(st.text().map(lambda text: text.replace("\r", "").strip()))
def test_plain_text_in_utf_8_comes_back(text):
    assert packages.READERS["text"](text.encode(errors="ignore")).strip() == (
        text.encode(errors="ignore").decode().removeprefix("\ufeff").strip()
    )


@pytest.mark.parametrize(
    "data",
    [
        b'{"book": [{"text": "In the beginning"}, {"n": 2, "text": "And the earth"}]}',
        b'{"text": "In the beginning"}\n{"text": "And the earth"}\n',
        b'{"text": "In the beginning"}\r\n\r\n{"text": "And the earth"}\r\n',
        b'\xef\xbb\xbf[{"text": "In the beginning", "inner": {"text": "And the earth"}}]',
    ],
    ids=["one value", "lines", "lines of Windows", "nested"],
)
def test_verses_are_joined_in_file_order(data):
    assert packages.READERS["verses"](data) == "In the beginning\nAnd the earth\n"


def test_a_separator_inside_a_verse_does_not_end_its_line():
    data = '{"text": "a\u2028b"}\n{"text": "c"}'.encode()
    assert packages.READERS["verses"](data) == "a\u2028b\nc\n"


def test_what_is_no_verse_is_left_out():
    data = b'[{"text": 3}, {"title": "Genesis"}, "loose", null, {"text": "In"}]'
    assert packages.READERS["verses"](data) == "In\n"


def test_members_of_a_document_are_joined_by_a_blank_line(tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("1.txt", "Chapter 1\r\n")
        archive.writestr("2.txt", "Chapter 2")
    (tmp_path / "a.whl").write_bytes(data.getvalue())
    text = read_document(tmp_path / "a.whl", ["1.txt", "2.txt"], "text")
    assert text == "Chapter 1\n\nChapter 2\n"


# The catalogue ------------------------------------------------------------------------------------


def test_the_licence_is_not_part_of_what_determines_the_bytes(index):
    package = make_wheel(index)
    other = package.model_copy(update={"licence": "unknown"})
    assert package.identity() == other.identity()
    assert Package(**package.identity(), licence="see elsewhere").sha256 == package.sha256


def test_a_document_of_a_package_that_is_not_listed_is_refused():
    document = {
        "name": "emma",
        "corpus": "books",
        "split": "train",
        "package": "nowhere",
        "members": ["a"],
        "sha256": "0" * 64,
        "characters": 1,
    }
    with pytest.raises(ValidationError, match="emma names the unknown package nowhere"):
        Catalogue.model_validate({"packages": {}, "documents": [document]})
