"""Documents in files, and encoding them piece by piece."""

import gzip
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from longrope import corpora
from longrope.corpora import Text, encode, read_documents
from longrope.errors import UserError
from longrope.tokenizers import load_encoder

# Reading ------------------------------------------------------------------------------------------


def refusal(*files, column="text"):
    """Return the sentence with which files are refused."""
    with pytest.raises(UserError) as caught:
        list(read_documents(files, column))
    return str(caught.value)


def zstandard_frame(data):
    """Compress by pyarrow, which the reader does not use."""
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESSORS = {".gz": gzip.compress, ".zst": zstandard_frame}


@pytest.fixture
def rows(tmp_path):
    """Return a function that writes rows as JSON lines, raw where they are bytes."""

    def write(*values, name="a.jsonl"):
        lines = [v if isinstance(v, bytes) else json.dumps(v).encode() for v in values]
        data = b"".join(line + b"\n" for line in lines)
        path = tmp_path / name
        path.write_bytes(COMPRESSORS.get(path.suffix, bytes)(data))
        return path

    return write


def test_a_text_file_is_one_document_named_after_it(tmp_path):
    (tmp_path / "emma.txt").write_text("Emma Woodhouse, héroïne\r\n", encoding="utf-8", newline="")
    assert list(read_documents([tmp_path / "emma.txt"], "ignored")) == [
        Text("emma", "Emma Woodhouse, héroïne\r\n")
    ]


def test_a_byte_order_mark_is_not_text(tmp_path, rows):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8-sig")
    jsonl = rows(b'\xef\xbb\xbf{"text": "text"}')
    assert [d.text for d in read_documents([tmp_path / "a.txt", jsonl], "text")] == ["text"] * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_row_of_json_lines_is_a_document_of_the_column_asked_for(rows, name):
    path = rows({"body": "one\u2028two", "n": 1}, {"body": "\ud83d\ude42"}, name=name)
    assert [d.text for d in read_documents([path], "body")] == ["one\u2028two", "🙂"]


def test_a_row_of_parquet_is_a_document_across_batches_and_row_groups(tmp_path):
    texts = [f"text {row}" for row in range(200)]
    table = pa.table({"number": list(range(200)), "text": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=77)
    documents = list(read_documents([tmp_path / "a.parquet"], "text"))
    assert [d.text for d in documents] == texts
    assert [documents[0].name, documents[-1].name] == ["a-1", "a-200"]


def test_documents_come_in_the_order_of_the_files(tmp_path, rows):
    (tmp_path / "b.txt").write_text("second")
    files = [rows({"text": "first"}), tmp_path / "b.txt"]
    assert [d.text for d in read_documents(files, "text")] == ["first", "second"]
    assert [d.text for d in read_documents(files[::-1], "text")] == ["second", "first"]


def test_an_unknown_kind_of_file_is_refused_with_the_known_ones(tmp_path):
    assert refusal(tmp_path / "a.csv") == (
        f"{tmp_path / 'a.csv'}: a corpus file must end in one of "
        ".txt, .jsonl, .jsonl.gz, .jsonl.zst, .parquet."
    )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_an_empty_file_is_refused(rows, name):
    path = rows(name=name)
    assert refusal(path).startswith(f"{path} is empty;")


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert refusal(path).startswith(f"{path} is empty;")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"text": "caf\xe9"}', "row 2 is not UTF-8 (byte 13)"),
        (b"{text: 1}", "row 2 is not JSON; expected one object a line"),
        (b"", "row 2 is not JSON"),
        ({"body": "x"}, "row 2 has no column 'text'; correct source.column"),
        (["text"], "row 2 has no column 'text'"),
        ({"text": 3}, "row 2: column 'text' holds int, expected text"),
        ({"text": None}, "row 2: column 'text' holds NoneType, expected text"),
        ({"text": " \n"}, "row 2 is empty"),
    ],
    ids=["encoding", "JSON", "blank", "column", "list", "number", "null", "spaces"],
)
def test_a_wrong_row_is_refused_by_its_number(rows, row, reason):
    path = rows({"text": "fine"}, row, {"text": "fine"})
    assert f"{path}, {reason}" in refusal(path)


def test_rows_before_a_wrong_one_are_read_first(rows):
    documents = read_documents([rows({"text": "fine"}, b"{")], "text")
    assert next(documents).text == "fine"
    with pytest.raises(UserError, match="row 2"):
        next(documents)


def test_a_text_file_in_another_encoding_is_refused_by_its_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("Wuthering Heights, café".encode("cp1252"))
    assert "a.txt is not UTF-8 (byte 22); convert it" in refusal(tmp_path / "a.txt")


def test_a_gzip_file_that_is_cut_or_no_gzip_is_refused(rows):
    path = rows({"text": "fine " * 1000}, name="a.jsonl.gz")
    whole = path.read_bytes()
    for damaged in (whole[:-12], whole[:20] + b"\xff" * 10 + whole[30:], b"not gzip"):
        path.write_bytes(damaged)
        assert refusal(path).startswith(f"{path} is not a whole gzip file")


def test_a_zstandard_file_of_several_frames_is_read_to_its_end_however_it_is_cut_into_blocks(
    tmp_path, monkeypatch
):
    texts = [f"text {row} " * (1 + 37 * row % 200) for row in range(60)]
    lines = [json.dumps({"text": text}).encode() for text in texts]
    # a frame ends within a line, and the last line without a line feed
    data = b"\n".join(lines)
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard_frame(data[:1000]) + zstandard_frame(data[1000:]))
    for size in (1, 7, 1000, 2**16):
        monkeypatch.setattr(corpora, "ZSTANDARD_BYTES", size)
        documents = list(read_documents([path], "text"))
        assert [document.text for document in documents] == texts
    assert documents[-1].name == "a.jsonl-60"


def test_a_zstandard_file_that_is_cut_or_none_is_refused(rows):
    path = rows({"text": "fine " * 1000}, {"text": "also fine"}, name="a.jsonl.zst")
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:-12], whole + whole[:-3], whole + b"more", b"not Zstandard"):
        path.write_bytes(damaged)
        assert refusal(path) == (
            f"{path} is not a whole Zstandard file; compress or fetch it again."
        )


def test_a_parquet_file_is_refused_without_its_column_and_damaged(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a" * 5000], "n": [1]}), path, compression="none")
    assert "has no column 'body'; it has text, n; correct source.column" in refusal(
        path, column="body"
    )
    assert "row 1: column 'n' holds int" in refusal(path, column="n")
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"\xff" * 100 + whole[104:])
    assert f"{path} is damaged after row 0:" in refusal(path)
    for damaged in (whole[: len(whole) // 2], b"", b"PAR1PAR1"):
        path.write_bytes(damaged)
        assert refusal(path).startswith(f"{path} is not a Parquet file")


# Encoding -----------------------------------------------------------------------------------------

SOME_TEXT = (
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, "
    "must be in want of a wife. However little known the feelings or views of such a man may be, "
    "this truth is so well fixed; 1813, 2 + 2 = 4. Größe, naïve, déjà vu.\n\n"
)


def byte_level() -> Tokenizer:
    """Return a byte-level BPE tokenizer as of GPT-2 and Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([SOME_TEXT], trainer)
    return tokenizer


def of_runs() -> Tokenizer:
    """Return a byte-level BPE tokenizer with tokens for odd numbers of the same character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["a" * 3, "a" * 7, "=" * 5, " " * 9 + "x"] * 5, trainer)
    return tokenizer


def sentence_piece_like() -> Tokenizer:
    """Return a tokenizer as of Llama 2: a space before all, no pre-tokenizer, bytes as a fallback."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, max_token_length=12, show_progress=False
    )
    tokenizer.train_from_iterator(SOME_TEXT.split(","), trainer)
    return tokenizer


TOKENIZERS = {"byte-level": byte_level(), "sentence-piece": sentence_piece_like()}
OF_RUNS = of_runs()

WORDS = st.sampled_from(SOME_TEXT.split()) | st.text(max_size=8)
TEXTS = st.lists(st.tuples(WORDS, st.sampled_from([" ", "  ", "\n", ". "])), max_size=250).map(
    lambda pairs: "".join(word + space for word, space in pairs)
)


@pytest.fixture
def small_pieces(monkeypatch):
    """Cut texts into pieces of 200 characters that overlap by 60."""
    monkeypatch.setattr(corpora, "PIECE_CHARACTERS", 200)
    monkeypatch.setattr(corpora, "OVERLAP_CHARACTERS", 60)


def joined(tokenizer, text):
    """Return the tokens of all pieces as one list."""
    return np.concatenate(list(encode(tokenizer, text))).tolist()


def whole(tokenizer, text):
    """Return the tokens of a text encoded at once."""
    return tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=TEXTS)
@settings(deadline=None)
def test_pieces_join_to_the_encoding_of_the_whole(name, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "PIECE_CHARACTERS", 200)
        patch.setattr(corpora, "OVERLAP_CHARACTERS", 60)
        assert joined(TOKENIZERS[name], text) == whole(TOKENIZERS[name], text)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    "unit", [SOME_TEXT, "Größe 🙂 naïve ", "日本語。", "a b ", "\n \n", "١٢٣ "]
)
def test_text_of_many_groups_of_pieces_joins(small_pieces, name, unit):
    text = unit * (9000 // len(unit))
    assert joined(TOKENIZERS[name], text) == whole(TOKENIZERS[name], text)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_length_around_the_size_of_a_piece_joins(small_pieces, name):
    text = SOME_TEXT * 3
    for length in [0, 1, 59, 60, 61, *range(195, 205), *range(335, 345), *range(475, 485)]:
        assert joined(TOKENIZERS[name], text[:length]) == whole(TOKENIZERS[name], text[:length])


def test_special_tokens_are_not_added():
    tokenizer = sentence_piece_like()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    assert tokenizer.encode("a man").ids == [1, *joined(tokenizer, "a man")]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "=", " ", "man in ", "ab"]), st.integers(1, 300)),
        max_size=8,
    )
)
@settings(deadline=None)
def test_runs_longer_than_an_overlap_join_too(runs):
    # no token boundary is safe inside them: where they are cut depends on where they begin
    text = " and ".join(unit * (count // len(unit) + 1) for unit, count in runs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "PIECE_CHARACTERS", 200)
        patch.setattr(corpora, "OVERLAP_CHARACTERS", 60)
        assert joined(OF_RUNS, text) == whole(OF_RUNS, text)


def test_only_the_pieces_around_a_run_are_encoded_again(small_pieces):
    lengths = []

    class Watched:
        def encode_batch(self, texts, **options):
            lengths.extend(map(len, texts))
            return OF_RUNS.encode_batch(texts, **options)

    text = "".join(SOME_TEXT * 2 + "a" * count for count in range(100, 140))
    assert joined(Watched(), text) == whole(OF_RUNS, text)
    assert 200 < max(lengths) <= 3 * 200, "some runs were cut in two"


def test_a_word_longer_than_a_piece_stays_one_token(small_pieces):
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "x" * 900: 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    text = "x" * 900 + " " + "y" * 300 + " " + "x" * 900
    assert joined(tokenizer, text) == [1, 0, 1]


def test_memory_does_not_grow_with_the_length_of_a_document(monkeypatch):
    monkeypatch.setattr(corpora, "PIECE_CHARACTERS", 5000)
    monkeypatch.setattr(corpora, "OVERLAP_CHARACTERS", 500)
    peaks = []
    for length in (100_000, 400_000):
        text = SOME_TEXT * (length // len(SOME_TEXT))
        tracemalloc.start()
        try:
            for _ in encode(TOKENIZERS["byte-level"], text):
                pass
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


# The tokenizer of a model folder ------------------------------------------------------------------


def test_a_tokenizer_that_was_saved_cutting_and_padding_does_neither(tmp_path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert joined(load_encoder(tmp_path), SOME_TEXT) == whole(byte_level(), SOME_TEXT)
    assert len(whole(load_encoder(tmp_path), "a")) == 1


def test_a_folder_without_a_tokenizer_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"has no tokenizer\.json; save the model's fast tokenizer"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", '{"model": {"type": "New"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer"):
        load_encoder(tmp_path)
