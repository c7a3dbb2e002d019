"""Tests of documents in files of every kind: read, skipped, repaired and refused."""

import errno
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from longrope.data import documents
from longrope.data.documents import Documents, NamedText
from longrope.errors import UserError


def refusal(*files, column="text", **options):
    """Return the sentence with which files are refused."""
    with pytest.raises(UserError) as caught:
        list(Documents(files, column, **options))
    return str(caught.value)


def texts_of(*files, column="text"):
    """Return the texts of files."""
    return [document.text for document in Documents(files, column)]


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
    assert list(Documents([tmp_path / "emma.txt"], "ignored")) == [
        NamedText("emma", "Emma Woodhouse, héroïne\r\n")
    ]


def test_a_byte_order_mark_is_not_text(tmp_path, rows):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8-sig")
    jsonl = rows(b'\xef\xbb\xbf{"text": "text"}')
    assert texts_of(tmp_path / "a.txt", jsonl) == ["text"] * 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_row_of_json_lines_is_a_document_of_the_column_asked_for(rows, name):
    path = rows({"body": "one\u2028two", "n": 1}, {"body": "\ud83d\ude42"}, name=name)
    assert texts_of(path, column="body") == ["one\u2028two", "🙂"]


def test_a_row_of_parquet_is_a_document_across_batches_and_row_groups(tmp_path):
    texts = [f"text {row}" for row in range(200)]
    table = pa.table({"number": list(range(200)), "text": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=77)
    documents = list(Documents([tmp_path / "a.parquet"], "text"))
    assert [d.text for d in documents] == texts
    assert [documents[0].name, documents[-1].name] == ["a-1", "a-200"]


def test_documents_come_in_the_order_of_the_files(tmp_path, rows):
    (tmp_path / "b.txt").write_text("second")
    files = [rows({"text": "first"}), tmp_path / "b.txt"]
    assert texts_of(*files) == ["first", "second"]
    assert texts_of(*files[::-1]) == ["second", "first"]


def test_an_unknown_kind_of_file_is_refused_with_the_known_ones(tmp_path):
    assert refusal(tmp_path / "a.csv") == (
        f"{tmp_path / 'a.csv'}: a corpus file must end in one of "
        ".txt, .txt.gz, .txt.zst, .jsonl, .jsonl.gz, .jsonl.zst, .json, .json.gz, .json.zst, .parquet."
    )


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_an_empty_file_is_passed_over_and_counted_or_refused(rows, name):
    path = rows(name=name)
    documents = Documents([path], "text")
    assert list(documents) == [] and documents.num_empty_rows == 1
    assert refusal(path, empty_rows="refuse").startswith(f"{path} is empty;")


def test_a_parquet_file_without_rows_is_empty(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert refusal(path, empty_rows="refuse").startswith(f"{path} is empty;")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"text": "caf\xe9"}', "row 2 is not UTF-8 (byte 13)"),
        (b"{text: 1}", "row 2 is not JSON; expected one object a line"),
        ({"body": "x"}, "row 2 has no column 'text'; correct source.column"),
        (["text"], "row 2 has no column 'text'"),
        ({"text": 3}, "row 2: column 'text' holds int, expected text"),
        ({"text": ["a"]}, "row 2: column 'text' holds list, expected text"),
        (b'{"text": ' + b"[" * 100_000, "row 2 is nested too deeply"),
        (b'{"text": "fine", "n": ' + b"1" * 5000 + b"}", "row 2 cannot be read: Exceeds the limit"),
        (b'{"text": "\x01"', "row 2 is not JSON"),
        (b'{"text": "a\x00"}', "row 2 holds a NUL byte (byte 11)"),
        (b"\x00" * 512, "row 2 holds a NUL byte (byte 0)"),
    ],
    ids=[
        *("encoding", "JSON", "column", "list", "number", "texts", "depth", "digits", "cut"),
        *("NUL", "hole"),
    ],
)
def test_a_wrong_row_is_refused_by_its_number(rows, row, reason):
    path = rows({"text": "fine"}, row, {"text": "fine"})
    assert f"{path}, {reason}" in refusal(path)


def test_rows_before_a_wrong_one_are_read_first(rows):
    documents = iter(Documents([rows({"text": "fine"}, b"{")], "text"))
    assert next(documents).text == "fine"
    with pytest.raises(UserError, match="row 2"):
        next(documents)


def test_a_text_file_in_another_encoding_is_refused_by_its_byte(tmp_path):
    (tmp_path / "a.txt").write_bytes("Wuthering Heights, café".encode("cp1252"))
    assert "a.txt is not UTF-8 (byte 22); convert it" in refusal(tmp_path / "a.txt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("end", [".txt", ".txt.gz", ".jsonl", ".json"])
def test_text_in_wide_characters_without_a_mark_is_refused_by_its_file(rows, encoding, end):
    text = "Wuthering Heights" if ".txt" in end else '[{"text": "Wuthering Heights"}]'
    path = rows(text.encode(encoding), name=f"a{end}")
    assert refusal(path).startswith(str(path)) and "NUL byte" in refusal(path)


@pytest.mark.parametrize("end", [".txt.gz", ".jsonl.gz", ".json.gz", ".txt.zst", ".jsonl.zst"])
def test_a_compressed_file_without_a_byte_is_a_cut_one(tmp_path, end):
    path = tmp_path / f"a{end}"
    path.write_bytes(b"")
    kind = "gzip" if end.endswith(".gz") else "Zstandard"
    assert refusal(path) == f"{path} is not a whole {kind} file; compress or fetch it again."


@pytest.mark.parametrize("end", [".TXT", ".Txt.GZ", ".txt.ZST"])
def test_a_text_in_capitals_is_read(rows, end):
    path = rows(b"Emma", name=f"Emma{end.lower()}").rename(rows().with_name(f"Emma{end}"))
    assert list(Documents([path], "")) == [NamedText("Emma", "Emma\n")]


@pytest.mark.parametrize("end", [".JSONL", ".JSONL.GZ", ".Json", ".json.Zst", ".PARQUET"])
def test_rows_of_files_in_capitals_are_read(rows, tmp_path, end):
    path = tmp_path / f"A{end}"
    if end == ".PARQUET":
        pq.write_table(pa.table({"text": ["one"]}), path)
    else:
        rows({"text": "one"}, name=f"a{end.lower()}").rename(path)
    assert list(Documents([path], "text")) == [NamedText("A-1", "one")]


def test_no_file_is_read_before_all_are_of_known_kinds(tmp_path, rows):
    documents = iter(Documents([rows({"text": "fine"}), tmp_path / "a.csv"], "text"))
    with pytest.raises(UserError, match=r"a\.csv: a corpus file must end in"):
        next(documents)


@pytest.mark.parametrize("end", [".txt", ".jsonl", ".json", ".txt.gz", ".jsonl.zst", ".parquet"])
def test_a_file_that_is_gone_or_refused_is_one_sentence(tmp_path, end):
    gone, folder = tmp_path / f"gone{end}", tmp_path / f"folder{end}"
    folder.mkdir()
    assert refusal(gone).startswith(f"{gone} does not exist any more; restore it")
    assert str(folder) in refusal(folder)


def test_an_error_of_the_disk_midway_names_the_file(rows, monkeypatch):
    path = rows({"text": "one"})

    def broken(path):
        yield b'{"text": "one"}\n'
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(documents, "_blocks", broken)
    assert refusal(path).startswith(f"{path} could not be used (Input/output error)")


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
        monkeypatch.setattr(documents, "ZSTANDARD_BYTES", size)
        read = list(Documents([path], "text"))
        assert [document.text for document in read] == texts
    assert read[-1].name == "a-60"


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


EMPTY = [b"", b" ", b"null", b" null ", {"text": None}, {"text": ""}, {"text": " \n"}]


@pytest.mark.parametrize(
    "row", EMPTY, ids=["blank", "space", "row", "wide row", "null", "nothing", "spaces"]
)
def test_a_row_without_text_is_passed_over_and_counted_or_refused(rows, row):
    path = rows({"text": "one"}, row, {"text": "two"})
    read = Documents([path], "text")
    assert [document.name for document in read] == ["a-1", "a-3"]
    assert read.num_empty_rows == 1
    sentence = refusal(path, empty_rows="refuse")
    assert sentence.startswith(f"{path}, row 2 is empty;") and "empty_rows: skip" in sentence


@pytest.mark.parametrize("end", [".json", ".json.gz", ".json.zst"])
@pytest.mark.parametrize("row", [b"null", b'{"text": null}', b'{"text": ""}'])
def test_an_element_without_text_is_passed_over_and_counted_or_refused(rows, row, end):
    path = rows(b'[{"text": "one"}, ' + row + b', {"text": "two"}]', name=f"a{end}")
    read = Documents([path], "text")
    assert [document.name for document in read] == ["a-1", "a-3"]
    assert read.num_empty_rows == 1
    assert refusal(path, empty_rows="refuse").startswith(f"{path}, row 2 is empty;")


@pytest.mark.parametrize("row", [b"0", b"false", b'""', b"[]", b"[null]"])
def test_a_row_that_is_no_object_is_not_taken_for_a_null(rows, row):
    assert "row 1 has no column 'text'" in refusal(rows(row))
    assert "row 1 has no column 'text'" in refusal(rows(b"[" + row + b"]", name="a.json"))


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (b'{"text": ' + b"[" * 100_000, "row 2 is nested too deeply"),
        (b'{"text": "fine", "n": ' + b"1" * 5000 + b"}", "row 2 cannot be read: Exceeds the limit"),
        (b"{text: 1}", "row 2 is not JSON"),
        (b'{"text": "fine"} {"text": "fine"}', "row 2 is not JSON"),
        (b"", "row 2 is not JSON"),
        (b'{"text": "fine"}] more [{"text": "fine"}', "after row 2, is not JSON"),
    ],
    ids=["depth", "digits", "JSON", "comma", "element", "end"],
)
def test_a_wrong_element_of_an_array_is_refused_by_its_number(rows, element, reason):
    path = rows(b'[{"text": "fine"},\n' + element + b', {"text": "fine"}]', name="a.json")
    assert f"{path}, {reason}" in refusal(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(), value, max_size=3),
    max_leaves=5,
)


@given(
    values=st.lists(VALUES.map(lambda value: {"text": "x", "more": value}) | st.none()),
    indent=st.sampled_from([None, 0, 3, "\t"]),
    around=st.text(" \t\r\n", max_size=4),
)
def test_an_array_has_the_elements_that_json_finds_in_it(values, indent, around):
    text = around + json.dumps(values, indent=indent) + around
    elements = list(documents._elements(text, Path("a.json")))
    assert [value for _, value in elements] == json.loads(text) == values
    assert [where for where, _ in elements] == [f"a.json, row {n + 1}" for n in range(len(values))]


def test_an_array_whose_decompression_begins_with_nothing_is_an_array(rows, monkeypatch):
    monkeypatch.setattr(documents, "ZSTANDARD_BYTES", 1)
    assert texts_of(rows(b'[{"text": "one"},\n {"text": "two"}]', name="a.json.zst")) == [
        *("one", "two"),
    ]


def test_a_null_of_parquet_is_passed_over_too(tmp_path):
    pq.write_table(pa.table({"text": ["one", None, "two"]}), tmp_path / "a.parquet")
    read = Documents([tmp_path / "a.parquet"], "text")
    assert [document.text for document in read] == ["one", "two"] and read.num_empty_rows == 1


def test_text_of_parquet_that_is_not_utf8_is_refused_by_its_row(tmp_path):
    path = tmp_path / "a.parquet"
    offsets = pa.py_buffer(np.array([0, 2, 4], dtype=np.int32).tobytes())
    texts = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"ok\xe9\xff"))
    pq.write_table(pa.table({"text": texts}), path)
    assert refusal(path).startswith(f"{path}, row 2 is not UTF-8 (byte 0)")


def test_half_a_character_becomes_a_replacement_character_and_is_counted(rows):
    path = rows(b'{"text": "a\\ud800b"}', b'{"text": "\\ud83d\\ude42"}', b'{"text": "\\udc00"}')
    read = Documents([path], "text")
    assert [document.text for document in read] == ["a\ufffdb", "\U0001f642", "\ufffd"]
    assert read.num_repaired_rows == 2


@pytest.mark.parametrize("end", [".json", ".json.gz", ".json.zst"])
def test_json_is_one_array_or_an_object_a_line(rows, end):
    values = [{"text": "one"}, {"text": "t\nwo"}]
    lines = rows(*values, name=f"lines{end}")
    array = rows(json.dumps(values, indent=2).encode(), name=f"array{end}")
    marked = rows(b"\xef\xbb\xbf \n" + json.dumps(values).encode(), name=f"marked{end}")
    for path in (lines, array, marked):
        read = list(Documents([path], "text"))
        assert [document.text for document in read] == ["one", "t\nwo"]
        assert [document.name for document in read] == [
            f"{path.name.split('.')[0]}-{n}" for n in (1, 2)
        ]
    assert "row 2 has no column" in refusal(rows(b'[{"text": "one"}, 3]', name=f"bad{end}"))
    assert "is not JSON" in refusal(rows(b'[{"text": "one"}', name=f"cut{end}"))
    assert "nested too deeply" in refusal(rows(b"[" * 100_000, name=f"deep{end}"))


@pytest.mark.parametrize("end", [".txt", ".txt.gz", ".txt.zst"])
def test_a_compressed_text_is_one_document_too(rows, end):
    path = rows(b"Emma\nWoodhouse", name=f"emma{end}")
    assert list(Documents([path], "")) == [NamedText("emma", "Emma\nWoodhouse\n")]


def test_a_zstandard_frame_with_a_window_of_two_gigabytes_is_read(tmp_path):
    long = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=False)
    frame = zstandard.ZstdCompressor(compression_params=long).compressobj()
    data = frame.compress(b'{"text": "one"}\n') + frame.flush()
    # the header says the window: 2**31 bytes, where a decoder allows 2**27 unless told otherwise
    assert zstandard.get_frame_parameters(data).window_size == 2**31
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    assert texts_of(tmp_path / "a.jsonl.zst") == ["one"]


@given(
    st.binary(max_size=200), st.sampled_from([".txt", ".jsonl", ".json", ".json.gz", ".txt.zst"])
)
def test_any_bytes_are_documents_or_one_sentence(data, end):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{end}")
        path.write_bytes(data)
        try:
            texts = texts_of(path)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert all(text.encode() for text in texts)
