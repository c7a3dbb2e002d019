"""Factors in files of other formats: there and back, transformers as reference, refusals."""

import csv
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from longrope.errors import UserError
from longrope.models.rotary import LongRopeRotary
from longrope.rope.factors import FactorTable, RopeFactors, first_fall
from longrope.rope.formats import FORMATS, HYPER_PARAMETERS, Loaded, format_of, read, write
from longrope.rope.methods import Geometry
from longrope.rope.stated import StatedFacts

LENGTHS = StatedFacts(original_length=64, target_length=256)
LLAMA: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 2}
"""A Llama of 8 rotary pairs."""
THETA = 500_000.0
PUBLIC = dict.fromkeys(HYPER_PARAMETERS, 1)
AUTHORS = Path(
    os.environ.get("LONGROPE_AUTHOR_FACTORS", ROOT.parent / "shared/facts/author_factors.csv")
)

numbers = st.floats(min_value=1e-3, max_value=1e6)
any_factors = st.builds(
    RopeFactors,
    factors=st.lists(numbers, min_size=1, max_size=8).map(tuple),
    num_start_tokens=st.integers(0, 1000),
    attention_scale=numbers,
    original_length=st.integers(2, 10**6),
    target_length=st.integers(10**6 + 1, 10**7),
    rope_theta=st.floats(2, 1e7),
    partial_rotary_factor=st.sampled_from([None, 0.25, 1.0]),
    method=st.sampled_from(["longrope", "yarn"]),
    provenance=st.just({"seed": 3}),
)


def make(**changes: Any) -> RopeFactors:
    """Return factors of 8 pairs with every field that a format may lose, with changes."""
    given_values: dict[str, Any] = {
        "factors": tuple(np.linspace(1.0, 4.0, 8).tolist()),
        "num_start_tokens": 4,
        "attention_scale": 1.2,
        "original_length": 64,
        "target_length": 256,
        "rope_theta": THETA,
        "method": "yarn",
        "provenance": {"seed": 3},
    }
    return RopeFactors(**(given_values | changes))


def there_and_back(
    factors: RopeFactors, format_name: str, stated: StatedFacts | None = None
) -> Loaded:
    """Write factors in a format and read them back from a file without a suffix."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "factors"), factors, format_name)
        return read(Path(folder, "factors"), stated=stated)


def file(folder: Path, content: object, name: str = "config.json") -> Path:
    """Write a text, or anything else as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def block(**changes: Any) -> dict[str, Any]:
    """Return a block of two pairs, as configs have it, with changes."""
    values: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.0],
        "long_factor": [1.0, 4.0],
        "original_max_position_embeddings": 16,
    }
    return values | changes


# There and back -----------------------------------------------------------------------------------


@given(factors=any_factors)
def test_our_own_format_gives_back_everything(factors: RopeFactors) -> None:
    assert there_and_back(factors, "longrope").factors == factors


@given(factors=any_factors)
def test_a_config_gives_back_all_but_start_tokens_and_origin(factors: RopeFactors) -> None:
    back = there_and_back(factors, "huggingface").factors
    fields = {"factors", "attention_scale", "original_length", "target_length"}
    fields |= {"rope_theta", "partial_rotary_factor"}
    assert back.model_dump(include=fields) == factors.model_dump(include=fields)


@given(factors=any_factors)
def test_a_csv_gives_back_all_once_it_is_told_the_rest(factors: RopeFactors) -> None:
    stated = StatedFacts(
        original_length=factors.original_length,
        target_length=factors.target_length,
        num_start_tokens=factors.num_start_tokens,
        attention_scale=factors.attention_scale,
    )
    back = there_and_back(factors, "csv", stated)
    assert back.factors.identity() == factors.identity()
    assert not [note for note in back.notes if "fall" not in note]


@given(factors=st.lists(numbers, min_size=1, max_size=8), name=st.sampled_from(list(FORMATS)))
def test_falling_factors_are_kept_in_order_and_told(factors: list[float], name: str) -> None:
    loaded = there_and_back(make(factors=tuple(factors)), name, LENGTHS)
    assert list(loaded.factors.factors) == factors
    has_note = any("the factors fall" in note for note in loaded.notes)
    assert has_note == bool((np.diff(factors) < 0).any())


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_known_by_its_contents(name: str) -> None:
    assert there_and_back(make(), name, LENGTHS).format_name == name


# Hand values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factors", "pair"), [((1.0, 1.0, 2.0), None), ((1.0, 3.0, 2.0, 1.0), 2), ((2.0, 1.0), 1)]
)
def test_the_first_pair_that_falls_is_found(factors: tuple[float, ...], pair: int | None) -> None:
    assert first_fall(factors) == pair


def test_a_fall_is_told_with_its_pairs_and_values(tmp_path: Path) -> None:
    (note,) = read(file(tmp_path, block(factor=4, long_factor=[2.0, 1.5]))).notes
    assert "first from 2 at pair 0 to 1.5 at pair 1" in note


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("longrope", []),
        (
            "csv",
            [
                "lengths (64 to 256)",
                "start tokens (4)",
                "attention scale (1.2)",
                "rope theta (500000)",
                "method (yarn)",
                "provenance (seed)",
            ],
        ),
        (
            "huggingface",
            [
                "start tokens (4)",
                "for transformers an attention scale of 1 up to the original length (it is 1.2 at all "
                "lengths)",
                "method (yarn)",
                "provenance (seed)",
            ],
        ),
    ],
)
def test_what_a_format_cannot_hold_is_named(name: str, lost: list[str], tmp_path: Path) -> None:
    assert write(tmp_path / "out", make(), name) == lost


def test_a_config_gives_the_attention_scale_that_transformers_derives(tmp_path: Path) -> None:
    # factor 4 over 16 tokens: sqrt(1 + ln 4 / ln 16) = sqrt(1.5)
    config = {"max_position_embeddings": 64, "rope_scaling": block()}
    loaded = read(file(tmp_path, config)).factors
    assert (loaded.original_length, loaded.target_length) == (16, 64)
    assert loaded.attention_scale == pytest.approx(1.5**0.5)


def test_an_original_length_beside_the_block_goes_before_the_one_in_it(tmp_path: Path) -> None:
    inside = block(original_max_position_embeddings=64, type="su")
    del inside["rope_type"]
    config = {
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 32,
        "rope_scaling": inside,
    }
    assert read(file(tmp_path, config)).factors.original_length == 32


def test_a_factor_goes_before_the_largest_position_and_says_so(tmp_path: Path) -> None:
    # a block that was put into a config of 16 positions, which nobody raised
    loaded = read(file(tmp_path, {"max_position_embeddings": 16, "rope_scaling": block(factor=4)}))
    assert loaded.factors.target_length == 64
    assert loaded.notes[0].endswith("length, 64, is used, not max_position_embeddings (16)")


def test_the_short_set_of_a_config_is_left_out_aloud_or_read_when_asked(tmp_path: Path) -> None:
    path = file(tmp_path, block(factor=4, short_factor=[1.0, 1.5]))
    assert any("short_factor is left out" in note for note in read(path).notes)
    short = read(path, stated=StatedFacts(short=True))
    assert short.factors.factors == (1.0, 1.5)
    assert short.factors.target_length == 16
    assert short.notes == ()


def test_a_short_set_is_written_beside_the_long_one(tmp_path: Path) -> None:
    short = make(factors=(1.5,) * 8, target_length=64)
    lost = write(tmp_path / "out.json", make(), "huggingface", short)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["short_factor"] == [1.5] * 8
    assert written["long_factor"] == list(make().factors)
    assert lost[0] == "start tokens (4 and 4)"
    assert not any("attention" in words for words in lost)


def test_one_line_per_layer_is_read_if_all_are_equal(tmp_path: Path) -> None:
    path = file(tmp_path, "1.0, 2.5\n\n1.0,2.5\n", "layers.csv")
    assert read(path, stated=LENGTHS).factors.factors == (1.0, 2.5)


def test_what_a_csv_does_not_say_is_assumed_aloud(tmp_path: Path) -> None:
    loaded = read(file(tmp_path, "1\n2\n", "f.csv"), stated=LENGTHS)
    assert loaded.factors.identity() == {
        "factors": [1.0, 2.0],
        "num_start_tokens": 0,
        "attention_scale": 1.0,
    }
    (note,) = loaded.notes
    assert note.endswith("start tokens (0 is assumed), attention scale (1 is assumed)")
    assert loaded.factors.provenance == {"converted_from": "f.csv"}


def test_a_file_wins_over_what_it_is_told_and_says_so(tmp_path: Path) -> None:
    make().save(tmp_path / "own.json")
    loaded = read(tmp_path / "own.json", stated=StatedFacts(target_length=128))
    assert loaded.factors == make()
    assert loaded.notes[0].endswith("says target length 256; --target-length 128 is not used")


def test_a_length_picks_the_entry_of_a_table(tmp_path: Path) -> None:
    entries = (make(target_length=128), make(num_start_tokens=7))
    FactorTable(entries=entries).save(tmp_path / "table.json")
    assert (
        read(tmp_path / "table.json", stated=StatedFacts(target_length=256)).factors == entries[1]
    )
    with pytest.raises(UserError, match=r"is a table; choose a length of 128, 256 with --target"):
        read(tmp_path / "table.json")


# Independent references ---------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["rope_parameters", "rope_scaling"])
def test_transformers_turns_a_written_block_into_our_frequencies(
    where: str, tmp_path: Path
) -> None:
    factors = make(num_start_tokens=0)
    write(tmp_path / "block.json", factors, "huggingface")
    written = json.loads((tmp_path / "block.json").read_text())
    config = LlamaConfig(max_position_embeddings=256, **LLAMA, **{where: written})
    theirs = LlamaRotaryEmbedding(config)
    positions, like = torch.arange(65)[None], torch.zeros(1)
    ours = LongRopeRotary(Geometry(num_pairs=8, rope_theta=THETA, original_length=64))
    ours.use(factors)
    for actual, reference in zip(ours(like, positions), theirs(like, positions), strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=1e-5)
    expected = [1 / (f * THETA ** (i / 8)) for i, f in enumerate(factors.factors)]
    torch.testing.assert_close(theirs.inv_freq, torch.tensor(expected), rtol=3e-7, atol=0)
    assert theirs.attention_scaling == 1.2


@pytest.mark.parametrize("explicit", [{}, {"factor": 4.0}, {"attention_factor": 1.3}])
def test_a_config_that_transformers_saved_is_read_as_transformers_means_it(
    explicit: dict[str, float], tmp_path: Path
) -> None:
    parameters = block(short_factor=[1.0] * 8, long_factor=list(make().factors), **explicit)
    config = LlamaConfig(
        max_position_embeddings=64, **LLAMA, rope_parameters=parameters | {"rope_theta": THETA}
    )
    theirs = LlamaRotaryEmbedding(config)
    theirs(torch.zeros(1), torch.arange(64)[None])
    config.save_pretrained(tmp_path)
    loaded = read(tmp_path / "config.json").factors
    assert (loaded.original_length, loaded.target_length) == (16, 64)
    assert loaded.attention_scale == pytest.approx(theirs.attention_scaling, rel=1e-12)
    ours = LongRopeRotary(Geometry(num_pairs=8, rope_theta=THETA, original_length=16))
    ours.use(loaded)
    ratio = ours.inv_freq / theirs.inv_freq
    torch.testing.assert_close(ratio, torch.tensor(loaded.factors), rtol=3e-7, atol=0)


@pytest.mark.skipif(
    not AUTHORS.is_file(), reason=f"{AUTHORS} is not there; LONGROPE_AUTHOR_FACTORS may name it"
)
def test_the_authors_own_factors_are_read_as_they_are(tmp_path: Path) -> None:
    for row in csv.DictReader(AUTHORS.read_text().splitlines()):
        name = row.pop("file")
        values = [float(value) for value in row.values()]
        loaded = read(file(tmp_path, "\n".join(row.values()), name), stated=LENGTHS)
        assert list(loaded.factors.factors) == values
        falls = any("the factors fall" in note for note in loaded.notes)
        assert falls == bool((np.diff(values) < 0).any()), name


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("f.csv", "", "f.csv is empty; give a file with one factor a line"),
        ("f.csv", "1\ntwo\n", "f.csv, line 2: 'two' is not made of numbers"),
        ("f.csv", "1,2\n\n1,3\n", "f.csv, line 3: other factors than in the first line"),
        ("f.csv", "1\n0\n", "f.csv: factor 1 must be finite and positive, got 0"),
        ("f.json", "1\n2\n", "f.json is not JSON"),
        ("f.json", [1, 2], "f.json is not a JSON object; name its format with --from"),
        ("f.json", {"model_type": "llama"}, "f.json holds no factors in a known format"),
        (
            "f.json",
            PUBLIC,
            "f.json holds settings of a search and no factors; `longrope factors conv",
        ),
        ("f.json", {"factors": [1, 2]}, "f.json is not a factors file: key original_length is mis"),
        ("c.json", {"rope_scaling": None}, "c.json has no block of rope_type longrope"),
        ("c.json", block(rope_type="yarn"), "c.json: rope_type is yarn; only longrope has"),
        ("c.json", block(factor="4"), "c.json: factor must be a positive number, got '4'; repair"),
        ("c.json", block(factor=4, long_mscale=0), "c.json: long_mscale must be a positive number"),
        ("c.json", block(factor=4, rope_theta=True), "c.json: rope_theta must be a positive num"),
        ("c.json", block(factor=4, long_factor=["1"]), "c.json: long_factor must be a list of nu"),
        ("c.json", block(), "c.json does not say its target length; give --target-length"),
        ("c.json", block(original_max_position_embeddings=None), "say its original length; give"),
        ("missing.json", None, "missing.json cannot be read: No such file"),
    ],
)
def test_a_file_that_says_no_factors_is_refused_in_one_sentence(
    name: str, content: object, sentence: str, tmp_path: Path
) -> None:
    stated = LENGTHS if name == "f.csv" else None
    path = tmp_path / name if content is None else file(tmp_path, content, name)
    with pytest.raises(UserError) as refused:
        read(path, stated=stated)
    assert sentence in str(refused.value)
    assert str(refused.value).count("\n") == 0


def test_a_csv_without_lengths_is_refused_by_the_option_to_give(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"f\.csv does not say its original length; give --orig"):
        read(file(tmp_path, "1\n2\n", "f.csv"))


@pytest.mark.parametrize(
    ("format_name", "factors", "short", "sentence"),
    [
        (
            "huggingface",
            make(target_length=64),
            None,
            "out: factors for 64 .*, are no long set; give",
        ),
        ("huggingface", make(), make(factors=(1.0,)), "out: --short has 1 factors, not 8"),
        ("csv", make(), make(), "only huggingface holds a short set"),
        ("huggingface", make(rope_theta=None), None, "means 10000; give --theta"),
        (
            "huggingface",
            make(),
            make(rope_theta=10_000.0),
            "--short is for rope theta 10000, not 500000; give sets of one model",
        ),
    ],
)
def test_factors_without_a_place_in_a_format_are_refused(
    format_name: str,
    factors: RopeFactors,
    short: RopeFactors | None,
    sentence: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(UserError, match=sentence):
        write(tmp_path / "out", factors, format_name, short)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none/out\.csv cannot be written: No such file"):
        write(tmp_path / "none" / "out.csv", make(), "csv")


def test_a_suffix_tells_the_format_to_write_or_it_must_be_named() -> None:
    assert [format_of(Path(name)) for name in ("a.csv", "a.txt", "a.json")] == [
        "csv",
        "csv",
        "longrope",
    ]
    with pytest.raises(UserError, match="tells no format; give --to, one of longrope, csv, hugg"):
        format_of(Path("a.yaml"))
