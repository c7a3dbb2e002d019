"""Documents to a token store.

Consumes  documents  a fetched folder, or the user's own files
          tokenizer  the base model's folder
Produces  tokens.bin, offsets.npy, tokens.json   see corpora.TokenStore
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from longrope import reading
from longrope.data.documents import Documents, NamedText, file_end
from longrope.data.special_ids import check_special_ids
from longrope.data.token_store import write_store
from longrope.data.tokenizers import load_encoder
from longrope.runtime import Facts, Input, Inputs, Runtime
from longrope.settings.nodes import TokenizeNode
from longrope.settings.sources import Share


def run(settings: TokenizeNode, inputs: Inputs, out: Path, runtime: Runtime) -> Facts:
    """Tokenize the documents of one split of a corpus; return counts of its rows."""
    del runtime
    check_special_ids(inputs["tokenizer"].path)
    encoder = load_encoder(inputs["tokenizer"].path)
    encoder.encode_special_tokens = settings.special_tokens == "text"
    files = _files(inputs["documents"])
    documents = Documents(files, settings.column, empty_rows=settings.empty_rows)
    selected = islice(_shared(documents, settings.share), settings.max_documents)
    # A file of text is a document, so their number is known; rows of other files are not counted.
    texts = [path for path in files if (file_end(path) or "").startswith(".txt")]
    total = len(files) if texts == files and settings.share is None else None
    progress = tqdm(selected, desc="tokenize", unit="document", total=total, mininterval=1.0)
    size = max(encoder.get_vocab().values()) + 1  # ids may have gaps
    write_store(out, progress, encoder, size, join_to=settings.join_to)
    counts = {
        "empty_rows": documents.num_empty_rows,
        "repaired_rows": documents.num_repaired_rows,
    }
    if any(counts.values()):
        print(
            f"tokenize: {documents.num_empty_rows:,} rows without text were skipped, in "
            f"{documents.num_repaired_rows:,} half characters became U+FFFD",
            file=sys.stderr,
        )
    return counts


def _shared(documents: Iterable[NamedText], share: Share | None) -> Iterator[NamedText]:
    """Yield the documents of a split."""
    for number, document in enumerate(documents):
        if share is None or number % share.of in share.places:
            yield document


def _files(source: Input) -> list[Path]:
    if source.files:
        return [source.path / name for name in source.files]
    return sorted(reading.files_below(source.path / "documents"))
