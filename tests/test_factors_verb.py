"""`longrope factors` as it is called, and the critical pair that its figure marks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrope.cli import main
from longrope.factors import RopeFactors
from longrope.methods import Geometry, closed_form, critical_pair
from longrope.verbs.factors import draw

GEOMETRY = Geometry(num_pairs=8, rope_theta=10_000.0, original_length=256)

Factors = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def factors(tmp_path, monkeypatch, capsys) -> Factors:
    """Return a function that runs a verb and gives exit code, output and the lines of errors."""
    monkeypatch.chdir(tmp_path)
    closed_form("yarn", GEOMETRY, 1024).save(Path("yarn.json"))
    Path("falls.csv").write_text("1\n3\n2\n4\n4\n4\n4\n4\n")

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        code = main(["factors", *arguments])
        output, errors = capsys.readouterr()
        return code, output, errors.splitlines()

    return run


LENGTHS = ("--original-length", "256", "--target-length", "1024")


def two_pairs(**changes: object) -> RopeFactors:
    """Return factors of 1 and 2 for 256 to 1024 tokens, with changes."""
    values: dict[str, object] = {
        "factors": (1.0, 2.0),
        "original_length": 256,
        "target_length": 1024,
        "method": "longrope",
    }
    return RopeFactors.model_validate(values | changes)


# The critical pair --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theta", "num_pairs", "length", "pair"),
    [
        # LLaMA3-8B: 64 ln(8192 / 2 pi) / ln 500000 = 34.98
        (500_000.0, 64, 8192, 35),
        # Phi3-mini with a window of 2k: 48 ln(2048 / 2 pi) / ln 10000 = 30.16
        (10_000.0, 48, 2048, 31),
        # of 4 tokens nothing sees a full turn; of a million tokens, base 10 lets all pairs turn
        (10_000.0, 48, 4, 0),
        (10.0, 4, 10**6, 4),
    ],
)
def test_the_critical_pair_has_its_hand_computed_value(
    theta: float, num_pairs: int, length: int, pair: int
) -> None:
    geometry = Geometry(num_pairs=num_pairs, rope_theta=theta, original_length=length)
    assert critical_pair(geometry) == pair


@given(
    theta=st.floats(2.0, 1e7), num_pairs=st.integers(1, 128), original_length=st.integers(1, 10**6)
)
def test_pairs_before_the_critical_one_turn_fully_and_the_others_do_not(
    theta: float, num_pairs: int, original_length: int
) -> None:
    geometry = Geometry(num_pairs=num_pairs, rope_theta=theta, original_length=original_length)
    fully = geometry.periods < original_length
    # a period equal to the length up to rounding may fall on either side
    clear = ~np.isclose(geometry.periods, original_length)
    expected = np.arange(num_pairs) < critical_pair(geometry)
    assert (fully == expected)[clear].all()


# Compare ------------------------------------------------------------------------------------------


def test_a_comparison_has_its_hand_computed_numbers(factors: Factors) -> None:
    two_pairs(num_start_tokens=4).save(Path("a.json"))
    two_pairs(factors=(1.0, 8.0), target_length=2048, attention_scale=1.5).save(Path("b.json"))
    code, output, errors = factors("compare", "a.json", "b.json")
    assert (code, errors) == (0, [])
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "file a.json b.json" in lines
    assert "target length 1,024 2,048" in lines
    assert "start tokens 4 0" in lines
    assert "attention scale 1 1.5" in lines
    assert "0 1 1 1.0000" in lines
    assert "1 2 8 0.2500" in lines
    # ln 4 = 1.386 in one of two pairs
    assert lines[-1] == "|ln(A / B)|: at most 1.386 (pair 1), 0.6931 on average"


def test_sets_of_different_models_are_not_compared(factors: Factors) -> None:
    two_pairs().save(Path("two.json"))
    code, output, errors = factors("compare", "two.json", "yarn.json")
    assert (code, output) == (1, "")
    (line,) = errors
    assert line.startswith("longrope: error: two.json has 2 factors and yarn.json 8; compare")


# Convert ------------------------------------------------------------------------------------------


def test_a_conversion_warns_in_one_line_of_what_is_lost(factors: Factors) -> None:
    code, output, errors = factors("convert", "yarn.json", "yarn.csv")
    assert (code, output) == (0, "")
    # 0.1 ln 4 + 1
    assert errors == [
        "longrope: warning: yarn.csv does not hold lengths (256 to 1024), attention scale "
        "(1.13863), method (yarn)."
    ]
    numbers = [float(line) for line in Path("yarn.csv").read_text().splitlines()]
    assert tuple(numbers) == RopeFactors.read(Path("yarn.json")).factors


def test_a_csv_becomes_our_own_format_and_its_fall_is_told(factors: Factors) -> None:
    code, _, errors = factors(
        "convert", "falls.csv", "own.json", *LENGTHS, "--start-tokens", "4", "--attention-scale=1.1"
    )
    (line,) = errors
    assert (code, "first from 3 at pair 1 to 2 at pair 2" in line) == (0, True)
    own = RopeFactors.read(Path("own.json"))
    assert own.factors == (1, 3, 2, 4, 4, 4, 4, 4)
    assert (own.num_start_tokens, own.attention_scale, own.scale) == (4, 1.1, 4)


def test_a_short_set_goes_into_the_config_and_out_again(factors: Factors) -> None:
    Path("short.csv").write_text("1.5\n" * 8)
    code, _, _ = factors(
        "convert", "yarn.json", "block.json", "--to", "huggingface", "--short", "short.csv"
    )
    assert code == 0
    assert json.loads(Path("block.json").read_text())["short_factor"] == [1.5] * 8
    assert factors("convert", "block.json", "back.csv", "--short-set")[0] == 0
    assert Path("back.csv").read_text() == "1.5\n" * 8
    again = ("convert", "yarn.json", "again.json", "--to", "huggingface", "--short", "block.json")
    _, _, errors = factors(*again)
    assert Path("again.json").read_text() == Path("block.json").read_text()
    assert errors == ["longrope: warning: again.json does not hold method (yarn)."]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("yarn.json", "out.json"), "yarn.json is longrope already; name another format with --to"),
        (("yarn.json", "falls.csv"), "falls.csv is there already; name another file or remove it"),
        (("falls.csv", "out.json"), "falls.csv does not say its original length; give --original"),
        (("yarn.json", "out.csv", "--from", "csv"), "yarn.json, line 1: '{' is not made of num"),
    ],
)
def test_a_conversion_that_cannot_be_meant_is_refused(
    factors: Factors, arguments: tuple[str, ...], sentence: str
) -> None:
    before = {path.name: path.read_bytes() for path in Path().iterdir()}
    code, output, errors = factors("convert", *arguments)
    assert (code, output) == (1, "")
    assert len(errors) == 1 and errors[0].startswith(f"longrope: error: {sentence}"), errors
    assert {path.name: path.read_bytes() for path in Path().iterdir()} == before


# Plot ---------------------------------------------------------------------------------------------


def test_a_figure_has_the_files_the_references_and_the_critical_pair() -> None:
    found = closed_form("linear", GEOMETRY, 1024).model_copy(
        update={"num_start_tokens": 4, "factors": tuple(range(1, 9))}
    )
    (axes,) = draw([("own.json", found)], GEOMETRY.rope_theta).axes
    curves = {line.get_label(): line for line in axes.get_lines()}
    assert list(curves["own.json, 4 start tokens"].get_ydata()) == list(range(1, 9))
    for method, label in {"linear": "PI", "ntk": "NTK", "yarn": "YaRN"}.items():
        expected = closed_form(method, GEOMETRY, 1024).factors
        assert tuple(curves[label].get_ydata()) == expected
    # 8 ln(256 / 2 pi) / ln 10000 = 3.22
    assert set(curves["critical pair: 4"].get_xdata()) == {math.ceil(3.22)}


def test_sets_of_other_lengths_have_panels_of_their_own() -> None:
    sets = [
        (name, closed_form("yarn", GEOMETRY, length))
        for name, length in (("a", 1024), ("b", 512), ("c", 1024))
    ]
    panels = [
        {str(line.get_label()) for line in axes.get_lines()} & {"a", "b", "c"}
        for axes in draw(sets, GEOMETRY.rope_theta).axes
    ]
    assert panels == [{"b"}, {"a", "c"}]


def test_dollar_signs_in_a_name_make_no_formula() -> None:
    (axes,) = draw([("cost$x$.json", closed_form("yarn", GEOMETRY, 512))], 10_000.0).axes
    assert r"cost\$x\$.json" in [str(line.get_label()) for line in axes.get_lines()]


def test_a_picture_is_written_with_equal_bytes_for_equal_files(factors: Factors) -> None:
    files = ("yarn.json", "falls.csv", *LENGTHS, "--start-tokens", "0", "--theta", "500000")
    for name in ("one.svg", "other.svg"):
        assert factors("plot", *files, "--output", name)[0] == 0
    assert Path("one.svg").read_bytes() == Path("other.svg").read_bytes()
    assert ElementTree.parse("one.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("yarn.json", "--output", "a.bmp"), "a.bmp: no kind of picture; end it in one of .pdf"),
        (("yarn.json", "--output", "none/a.svg"), "none/a.svg cannot be written: No such file"),
        (("yarn.json", "--output", "a.svg", "--theta", "1"), "--theta 1: a rotary base is above"),
        (("one.csv", "--output", "a.svg", *LENGTHS), "one.csv has a single factor, which makes no"),
    ],
)
def test_a_plot_that_cannot_be_made_is_refused(
    factors: Factors, arguments: tuple[str, ...], sentence: str
) -> None:
    Path("one.csv").write_text("1\n")
    code, output, errors = factors("plot", *arguments)
    assert (code, output) == (1, "")
    assert errors[-1].startswith(f"longrope: error: {sentence}"), errors
    assert not list(Path().glob("*.svg"))
