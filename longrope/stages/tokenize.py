"""Documents to a token store.

Consumes  documents  a fetched folder, or the user's own files
          tokenizer  the base model's folder
Produces  tokens.bin, offsets.npy, tokens.json   see corpora.TokenStore
"""

from itertools import islice
from pathlib import Path

from tqdm import tqdm

from longrope.corpora import read_documents, reader_of, write_store
from longrope.runtime import Input, Inputs, Runtime, Settings
from longrope.special_ids import check_special_ids
from longrope.tokenizers import load_encoder


def run(settings: Settings, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Tokenize the documents of one split of a corpus."""
    del runtime
    check_special_ids(inputs["tokenizer"].path)
    encoder = load_encoder(inputs["tokenizer"].path)
    files = _files(inputs["documents"])
    documents = read_documents(files, settings["column"])
    wanted = islice(documents, settings["max_documents"])
    # A file of text is a document, so their number is known; rows of other files are not counted.
    total = len(files) if all(path.suffix == ".txt" for path in files) else None
    progress = tqdm(wanted, desc="tokenize", unit="document", total=total, mininterval=1.0)
    size = max(encoder.get_vocab().values()) + 1  # ids may have gaps
    write_store(out, progress, encoder, size, join_to=settings["join_to"])


def _files(source: Input) -> list[Path]:
    if source.files:
        return [source.path / name for name in source.files]
    found = (source.path / "documents").rglob("*")
    return sorted(path for path in found if reader_of(path) is not None)
