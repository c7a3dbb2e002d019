"""Documents in files: text, JSON and Parquet, also compressed; local files and those of the hub alike.

A .txt file is one document; a row of any other file is one, its text in a column. Bad input is named with
its file and row. To read another kind of file, write a reader and add it to FORMATS.
"""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path, PurePath
from typing import Any, Literal

from longrope.errors import UserError, refusals_explained

ZSTANDARD_BYTES = 2**16
"""compressed bytes at a time"""
ZSTANDARD_WINDOW = 2**31
"""bytes; the largest that `zstd --long=31` writes; decoders allow 2**27 by default"""
SURROGATE = re.compile("[\ud800-\udfff]")
"""half of a character, which JSON can write and UTF-8 cannot"""
ARRAY_START = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*")
DELIMITER = re.compile(r"[ \t\r\n]*([,\]])[ \t\r\n]*")
"""after an element of a JSON array"""
EMPTY_ARRAY = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*\][ \t\r\n]*")

EmptyRows = Literal["skip", "refuse"]


@dataclass(frozen=True)
class NamedText:
    """One document."""

    name: str
    text: str


@dataclass(frozen=True)
class Row:
    """Content of one row of a file, before it is checked."""

    name: str
    where: str
    value: object
    """None for a null, as the row or as its text, and for a blank line"""


class Documents:
    """The documents of files, in order, with counts of the rows that were skipped or repaired."""

    def __init__(
        self, files: Sequence[Path], column: str, *, empty_rows: EmptyRows = "skip"
    ) -> None:
        """Keep the files, which are read while iterating.

        Args:
            files: each of a kind that `FORMATS` reads.
            column: that holds a document's text, in files of rows.
            empty_rows: whether a row without text, or a file without rows, is passed over or refused.
        """
        self._files = files
        self._column = column
        self._empty_rows = empty_rows
        self.num_empty_rows = 0
        """rows without text, and files without rows, that were passed over"""
        self.num_repaired_rows = 0
        """rows with half characters, each of which became U+FFFD"""

    def __iter__(self) -> Iterator[NamedText]:
        """Yield every document.

        Raises:
            UserError: naming the file and row that cannot be read or has no column of text. A file of
                another kind is refused before any file is read.
        """
        readers = [_require_reader(path) for path in self._files]
        for path, reader in zip(self._files, readers, strict=True):
            has_rows = False
            for row in _rows(reader, path, self._column):
                has_rows = True
                if (document := self._document(row)) is not None:
                    yield document
            if not has_rows:
                self._pass_over(str(path))

    def _document(self, row: Row) -> NamedText | None:
        text = row.value
        if text is not None and not isinstance(text, str):
            raise UserError(
                f"{row.where}: column {self._column!r} holds {type(text).__name__}, expected text."
            )
        if text is None or not text.strip():
            self._pass_over(row.where)
            return None
        repaired = SURROGATE.sub("\ufffd", text)
        self.num_repaired_rows += repaired != text
        return NamedText(row.name, repaired)

    def _pass_over(self, where: str) -> None:
        if self._empty_rows == "refuse":
            raise UserError(
                f"{where} is empty; remove it, give it text, or set the corpus's empty_rows: skip."
            )
        self.num_empty_rows += 1


# Kinds of files -----------------------------------------------------------------------------------


def file_end(path: PurePath) -> str | None:
    """Return the key of `READERS` that a file's name ends with in any case, None if there is none."""
    name = path.name.lower()
    return next((end for end in READERS if name.endswith(end)), None)


def _require_reader(path: Path) -> "Reader":
    end = file_end(path)
    if end is None:
        raise UserError(f"{path}: a corpus file must end in one of {', '.join(READERS)}.")
    return READERS[end]


def _rows(reader: "Reader", path: Path, column: str) -> Iterator[Row]:
    """Yield the rows of a file; raise UserError if it is absent or the operating system refuses it."""
    with refusals_explained():
        try:
            yield from reader(path, column)
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{path} does not exist any more; restore it, or correct source.files and run again."
            ) from None
        except OSError as error:
            # a read that fails midway does not name its file
            error.filename = str(path)
            raise


def readable(names: Sequence[str], *, whole_folder: bool) -> list[str]:
    """Select the names of files that can be read.

    Args:
        names: of files, those of one entry of a configuration.
        whole_folder: whether the entry is a folder, in which other files are passed over.

    Raises:
        UserError: naming the first file that was asked for by name or pattern and cannot be read, or if
            there is none at all.
    """
    known = [name for name in names if file_end(PurePath(name)) is not None]
    unknown = sorted(set(names) - set(known))
    if unknown and not whole_folder:
        raise UserError(f"{unknown[0]} cannot be read; {_WHAT_TO_GIVE}")
    if not known:
        raise UserError(f"there is no such file; {_WHAT_TO_GIVE}")
    return known


def _read_txt(path: Path, column: str) -> Iterator[Row]:
    del column
    where = str(path)
    yield Row(_stem(path), where, _decoded(b"".join(_blocks(path)), where))


def _read_jsonl(path: Path, column: str) -> Iterator[Row]:
    for row, line in enumerate(_split(_blocks(path)), start=1):
        where = f"{path}, row {row}"
        text = _decoded(line, where)
        value = _column(_parsed(text, where), column, where) if text.strip() else None
        yield Row(f"{_stem(path)}-{row}", where, value)


def _read_json(path: Path, column: str) -> Iterator[Row]:
    """Read one array of objects, or, as many hub files with this end are, one object a line."""
    # a decompressor may begin with empty blocks
    blocks = (block.lstrip(b"\xef\xbb\xbf \t\r\n") for block in _blocks(path))
    first = next((block for block in blocks if block), b"")
    if not first.startswith(b"["):
        yield from _read_jsonl(path, column)
        return
    text = _decoded(b"".join(_blocks(path)), str(path))
    for row, (where, value) in enumerate(_elements(text, path), start=1):
        yield Row(f"{_stem(path)}-{row}", where, _column(value, column, where))


def _elements(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """Yield location and value of each element of a JSON array, so that an error names its row."""
    if EMPTY_ARRAY.fullmatch(text):
        return
    start = ARRAY_START.match(text)
    if start is None:
        raise _not_json(str(path))
    at, row, more = start.end(), 0, True
    while more:
        row += 1
        where = f"{path}, row {row}"
        value, at = _parsed(text, where, partial(json.JSONDecoder().raw_decode, idx=at))
        yield where, value
        delimiter = DELIMITER.match(text, at)
        if delimiter is None:
            raise _not_json(where)
        at, more = delimiter.end(), delimiter[1] == ","
    if at < len(text):
        raise _not_json(f"{path}, after row {row},")


def _read_parquet(path: Path, column: str) -> Iterator[Row]:
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
    except (ArrowException, OSError, ValueError) as error:
        # an error of the system does not mean damaged data
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(f"{path} is not a Parquet file; convert or fetch it again.") from None
    if column not in table.schema_arrow.names:
        known = ", ".join(table.schema_arrow.names)
        raise UserError(f"{path} has no column {column!r}; it has {known}; correct source.column.")
    row = 0
    batches = table.iter_batches(batch_size=64, columns=[column])
    while (batch := _next_batch(batches, path, row)) is not None:
        for value in batch.column(0):
            row += 1
            where = f"{path}, row {row}"
            yield Row(f"{_stem(path)}-{row}", where, _plain(value, where))


def _next_batch(batches: Iterator[Any], path: Path, row: int) -> Any | None:
    from pyarrow.lib import ArrowException

    try:
        return next(batches, None)
    except (ArrowException, OSError, ValueError) as error:
        # an error of the system does not mean damaged data
        if isinstance(error, OSError) and error.errno:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged after row {row}: {reason}; fetch it again.") from None


def _plain(value: Any, where: str) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 (byte {error.start}); write the file again."
        ) from None


Reader = Callable[[Path, str], Iterator[Row]]

FORMATS: dict[str, Reader] = {".txt": _read_txt, ".jsonl": _read_jsonl, ".json": _read_json}
"""end of a name -> reader; each also compressed, with a further end"""
COMPRESSED = ("", ".gz", ".zst")
READERS: dict[str, Reader] = {
    **{end + more: FORMATS[end] for end, more in product(FORMATS, COMPRESSED)},
    ".parquet": _read_parquet,
}
_WHAT_TO_GIVE = (
    f"give files that end in one of {', '.join(READERS)}, "
    "folders of them or patterns that match them."
)


# Bytes and JSON -----------------------------------------------------------------------------------


def _stem(path: Path) -> str:
    """Return a file's name without its end and that of its compression."""
    return path.name[: -len(file_end(path) or "")] or path.name


def _decoded(data: bytes, where: str) -> str:
    # valid UTF-8, but no text: UTF-16 without a mark, or a file that was cut by a crash
    if (byte := data.find(0)) >= 0:
        raise UserError(
            f"{where} holds a NUL byte (byte {byte}), as UTF-16 does and UTF-8 text does not; convert "
            "it, for example with iconv, or write it again."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 (byte {error.start}); convert it, for example with iconv."
        ) from None


def _parsed(text: str, where: str, decode: Callable[[str], Any] = json.loads) -> Any:
    try:
        return decode(text)
    except json.JSONDecodeError:
        raise _not_json(where) from None
    except RecursionError:
        raise UserError(f"{where} is nested too deeply to be read; remove it.") from None
    except ValueError as error:  # a number of more digits than Python converts
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where} cannot be read: {reason}; remove it.") from None


def _not_json(where: str) -> UserError:
    return UserError(f"{where} is not JSON; expected one object a line, or an array of them.")


def _column(value: object, column: str, where: str) -> object:
    if value is None:
        return None
    if not isinstance(value, dict) or column not in value:
        raise UserError(f"{where} has no column {column!r}; correct source.column.")
    return value[column]


def _blocks(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file, decompressed according to the end of its name."""
    suffix = path.suffix.lower()
    try:
        # even an empty file has a header once it is compressed
        if suffix in (".gz", ".zst") and path.stat().st_size == 0:
            raise EOFError
        if suffix == ".zst":
            yield from _decompressed(path)
            return
        with gzip.open(path) if suffix == ".gz" else path.open("rb") as stream:
            while block := stream.read(2**20):
                yield block
    except (gzip.BadGzipFile, EOFError, zlib.error):
        kind = "Zstandard" if suffix == ".zst" else "gzip"
        raise UserError(f"{path} is not a whole {kind} file; compress or fetch it again.") from None


def _decompressed(path: Path) -> Iterator[bytes]:
    """Yield the contents of a Zstandard file of one frame or more; EOFError if it is cut or not one."""
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTANDARD_WINDOW)
    frame = None
    with path.open("rb") as stream:
        while data := stream.read(ZSTANDARD_BYTES):
            while data:
                # Not the package's reader of streams, which takes a cut file for a whole one.
                frame = frame or decompressor.decompressobj()
                try:
                    yield frame.decompress(data)
                except zstandard.ZstdError:
                    raise EOFError from None
                data = frame.unused_data
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, without their ends."""
    begun: list[bytes] = []
    for block in blocks:
        first, *lines = block.split(b"\n")
        begun.append(first)
        if lines:
            yield b"".join(begun)
            yield from lines[:-1]
            begun = [lines[-1]]
    if rest := b"".join(begun):
        yield rest
