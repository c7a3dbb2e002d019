"""Documents in files, and token stores: one flat memory-mapped array with offsets and names.

Reads .txt (one document a file), .jsonl, also compressed, and .parquet (one document a row, text in a
column). Bad input is named with its file and row. Long documents are encoded piece by piece, so they never
become one Python list.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longrope.errors import UserError

PIECE_CHARACTERS = 100_000
OVERLAP_CHARACTERS = 2_000
ZSTANDARD_BYTES = 2**16
"""compressed bytes at a time"""


@dataclass(frozen=True)
class Text:
    """One document."""

    name: str
    text: str


class Encoder(Protocol):
    """What a `tokenizers.Tokenizer` offers."""

    def encode_batch(
        self, input: Sequence[Any], is_pretokenized: bool = False, add_special_tokens: bool = True
    ) -> Sequence[Any]:
        """Encode many texts on all cores, each to an object with `ids` and `offsets`."""
        ...


# Reading ------------------------------------------------------------------------------------------


def read_documents(files: Sequence[Path], column: str) -> Iterator[Text]:
    """Yield every document of the files, in order.

    Raises:
        UserError: naming the file and row that is empty, not UTF-8 or without the column.
    """
    for path in files:
        reader = reader_of(path)
        if reader is None:
            known = ", ".join(READERS)
            raise UserError(f"{path}: a corpus file must end in one of {known}.")
        empty = True
        for document in reader(path, column):
            empty = False
            yield document
        if empty:
            raise UserError(f"{path} is empty; remove it or give it rows.")


def reader_of(path: Path) -> "Reader | None":
    """Return the reader of a file by the end of its name, None if there is none."""
    return next((reader for end, reader in READERS.items() if path.name.endswith(end)), None)


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 (byte {error.start}); convert it, for example with iconv."
        ) from None


def _checked(text: object, where: str, column: str) -> str:
    if not isinstance(text, str):
        raise UserError(f"{where}: column {column!r} holds {type(text).__name__}, expected text.")
    if not text.strip():
        raise UserError(f"{where} is empty; remove it or give it text.")
    return text


def _read_txt(path: Path, column: str) -> Iterator[Text]:
    yield Text(path.stem, _checked(_decoded(path.read_bytes(), str(path)), str(path), column))


def _read_jsonl(path: Path, column: str) -> Iterator[Text]:
    for row, line in enumerate(_lines(path), start=1):
        where = f"{path}, row {row}"
        try:
            value = json.loads(_decoded(line, where))
        except json.JSONDecodeError:
            raise UserError(f"{where} is not JSON; expected one object a line.") from None
        if not isinstance(value, dict) or column not in value:
            raise UserError(f"{where} has no column {column!r}; correct source.column.")
        yield Text(f"{path.stem}-{row}", _checked(value[column], where, column))


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, which may be compressed as the end of its name says."""
    try:
        if path.suffix == ".zst":
            yield from _split(_decompressed(path))
            return
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield from stream
    except (gzip.BadGzipFile, EOFError, zlib.error):
        kind = "Zstandard" if path.suffix == ".zst" else "gzip"
        raise UserError(f"{path} is not a whole {kind} file; compress or fetch it again.") from None


def _decompressed(path: Path) -> Iterator[bytes]:
    """Yield the contents of a Zstandard file of one frame or more; EOFError if it is cut or none."""
    import zstandard

    frame = None
    with path.open("rb") as stream:
        while data := stream.read(ZSTANDARD_BYTES):
            while data:
                # Not the package's reader of streams, which takes a cut file for a whole one.
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    yield frame.decompress(data)
                except zstandard.ZstdError:
                    raise EOFError from None
                data = frame.unused_data
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError


def _split(blocks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _read_parquet(path: Path, column: str) -> Iterator[Text]:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
    except ArrowInvalid:
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
            yield Text(f"{path.stem}-{row}", _checked(value.as_py(), where, column))


def _next_batch(batches: Iterator[Any], path: Path, row: int) -> Any | None:
    try:
        return next(batches, None)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        if (
            isinstance(error, OSError) and error.errno
        ):  # the system's, which say nothing of the data
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is damaged after row {row}: {reason}; fetch it again.") from None


Reader = Callable[[Path, str], Iterator[Text]]

READERS: dict[str, Reader] = {
    ".txt": _read_txt,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".jsonl.zst": _read_jsonl,
    ".parquet": _read_parquet,
}


# Encoding -----------------------------------------------------------------------------------------


Tokens = tuple[NDArray[np.int64], NDArray[np.int64]]
"""ids, and the character at which each token begins"""


def encode(encoder: Encoder, text: str) -> Iterator[NDArray[np.int64]]:
    """Yield the tokens of one text in arrays that join to the encoding of the whole.

    Pieces overlap; two neighbours are joined in the middle of the overlap, where neither can see an end
    of its piece. Where they disagree even there, as inside an endless word, they become one piece.
    """
    step = PIECE_CHARACTERS - OVERLAP_CHARACTERS
    starts = range(0, max(1, len(text) - OVERLAP_CHARACTERS), step)
    begin, held_start = 0, 0
    held: Tokens | None = None
    for first in range(0, len(starts), 16):
        group = starts[first : first + 16]
        pieces = [text[start : start + PIECE_CHARACTERS] for start in group]
        encodings = encoder.encode_batch(pieces, add_special_tokens=False)
        for start, encoding in zip(group, encodings, strict=True):
            piece = _tokens(encoding, start)
            if held is not None:
                cut = _join(held, piece, start + OVERLAP_CHARACTERS // 2)
                if cut is None:
                    both = text[held_start : start + PIECE_CHARACTERS]
                    (encoding,) = encoder.encode_batch([both], add_special_tokens=False)
                    held = _tokens(encoding, held_start)
                    continue
                yield held[0][(held[1] >= begin) & (held[1] < cut)]
                begin = cut
            held, held_start = piece, start
    if held is not None:
        yield held[0][held[1] >= begin]


def _tokens(encoding: Any, start: int) -> Tokens:
    at = np.array([offset[0] for offset in encoding.offsets], dtype=np.int64) + start
    return np.array(encoding.ids, dtype=np.int64), at


def _join(left: Tokens, right: Tokens, middle: int) -> int | None:
    """Return the first character after `middle` where a token begins, None if the pieces differ there."""
    margin = OVERLAP_CHARACTERS // 4
    near = [(at >= middle - margin) & (at < middle + margin) for _, at in (left, right)]
    if not all(np.array_equal(a[near[0]], b[near[1]]) for a, b in zip(left, right, strict=True)):
        return None
    boundaries = left[1][near[0] & (left[1] >= middle)]
    return int(boundaries[0]) if len(boundaries) else None


# Token stores -------------------------------------------------------------------------------------


class TokenStore:
    """Documents as token ids: `document(i)` is a view of a memory-mapped flat array."""

    def __init__(self, folder: Path) -> None:
        self._meta = json.loads((folder / "tokens.json").read_text())
        self.names: list[str] = self._meta["names"]
        self.offsets: NDArray[np.int64] = np.load(folder / "offsets.npy")
        self._flat = np.memmap(folder / "tokens.bin", dtype=self._meta["dtype"], mode="r")

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document, shape (number of documents,)."""
        return np.diff(self.offsets)

    def document(self, index: int, begin: int = 0, end: int | None = None) -> NDArray[np.int64]:
        """Return tokens begin..end of one document as int64."""
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        stop = stop if end is None else min(stop, start + end)
        return np.asarray(self._flat[start + begin : stop], dtype=np.int64)

    def long_enough(self, length: int, what: str) -> list[int]:
        """Return the documents of at least `length` tokens; UserError, naming `what`, if none is."""
        found = np.flatnonzero(self.lengths >= length).tolist()
        if not found:
            raise UserError(
                f"{what}: no document has {length} tokens, the longest has {self.lengths.max()}; "
                "ask for shorter lengths or give the corpus longer documents."
            )
        return [int(index) for index in found]


def write_store(
    folder: Path,
    documents: Iterable[Text],
    encoder: Encoder,
    vocabulary_size: int,
    *,
    join_to: int | None = None,
) -> None:
    """Encode documents one after the other into a token store.

    With `join_to`, neighbours are joined until they have so many tokens; a rest too short is dropped.

    Raises:
        UserError: if there is no document at all.
    """
    dtype = np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.uint32)
    index = _Index(join_to)
    with (folder / "tokens.bin").open("wb") as stream:
        for document in documents:
            count = 0
            for tokens in encode(encoder, document.text):
                stream.write(tokens.astype(dtype).tobytes())
                count += len(tokens)
            index.add(document.name, count)
    if index.offsets[-1] == 0:
        raise UserError(
            "the corpus has no documents, no tokens, or none of the length to join to; check it."
        )
    np.save(folder / "offsets.npy", np.array(index.offsets, dtype=np.int64))
    meta = {"dtype": dtype.name, "names": index.names, "num_tokens": index.offsets[-1]}
    (folder / "tokens.json").write_text(json.dumps(meta, indent=1) + "\n")


class _Index:
    """Names and offsets of the documents of a store while it is written."""

    def __init__(self, join_to: int | None) -> None:
        self.names: list[str] = []
        self.offsets = [0]
        self._join_to = join_to
        self._open: list[str] = []
        self._pending = 0

    def add(self, name: str, count: int) -> None:
        """Close a document here, unless what is open is still shorter than it should be."""
        self._open.append(name)
        self._pending += count
        if self._join_to is None or self._pending >= self._join_to:
            self.names.append(" + ".join(self._open))
            self.offsets.append(self.offsets[-1] + self._pending)
            self._open, self._pending = [], 0
