"""`longrope factors` as it is called, and the critical pair that its figure marks."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from longrope.cli.main import main
from longrope.cli.search import model_label
from longrope.reports.figures.factors import figure_of_files
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import Geometry, closed_form, critical_pair

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
        "(1.13863), rope theta (10000), partial rotary factor (1), method (yarn)."
    ]
    numbers = [float(line) for line in Path("yarn.csv").read_text().splitlines()]
    assert tuple(numbers) == RopeFactors.read(Path("yarn.json")).factors


def test_a_csv_becomes_our_own_format_and_its_fall_is_told(factors: Factors) -> None:
    code, _, errors = factors(
        "convert", "falls.csv", "own.json", *LENGTHS, "--start-tokens", "4", "--attention-scale=1.1"
    )
    (line,) = errors
    assert (code, "first from 3 at pair 1 to 2 at pair 2" in line) == (0, True)
    converted = RopeFactors.read(Path("own.json"))
    assert converted.factors == (1, 3, 2, 4, 4, 4, 4, 4)
    assert (converted.num_start_tokens, converted.attention_scale, converted.scale) == (4, 1.1, 4)


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
    # 1 is what the CSV's attention scale is assumed to be
    assert errors == [
        "longrope: warning: block.json: short_mscale, 1, is used, as vLLM does; transformers scales by "
        "1.13863.",
        "longrope: warning: again.json does not hold for transformers an attention scale of 1 up to the "
        "original length (it is 1.13863 at all lengths), method (yarn).",
    ]


def test_a_block_says_where_it_goes_and_a_csv_needs_the_rotary_base(factors: Factors) -> None:
    huggingface = ("--to", "huggingface")
    code, output, _ = factors("convert", "yarn.json", "block.json", *huggingface)
    assert code == 0
    for words in (
        "block.json is for the config.json of the model",
        '"rope_parameters"',
        '"original_max_position_embeddings": 256',
        '"max_position_embeddings": 1024',
        'remove "rope_scaling"',
    ):
        assert words in output
    assert json.loads(Path("block.json").read_text())["rope_theta"] == 10_000.0
    csv = ("convert", "falls.csv", "new.json", *huggingface, *LENGTHS)
    _, _, errors = factors(*csv)
    assert errors[-1].endswith("without the rope_theta of its model means 10000; give --theta.")
    assert not Path("new.json").exists()
    assert factors(*csv, "--theta", "500000", "--partial-rotary-factor", "0.25")[0] == 0
    written = json.loads(Path("new.json").read_text())
    assert (written["rope_theta"], written["partial_rotary_factor"]) == (500_000.0, 0.25)


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
    factors = closed_form("linear", GEOMETRY, 1024).model_copy(
        update={"num_start_tokens": 4, "factors": tuple(range(1, 9))}
    )
    (axes,) = figure_of_files([("own.json", factors)]).axes
    curves = {line.get_label(): line for line in axes.get_lines()}
    assert list(curves["own.json"].get_ydata()) == list(range(1, 9))
    for method, label in {"linear": "linear (PI)", "ntk": "NTK-aware", "yarn": "YaRN"}.items():
        expected = closed_form(method, GEOMETRY, 1024).factors
        assert tuple(curves[label].get_ydata()) == expected
    # 8 ln(256 / 2 pi) / ln 10000 = 3.22
    assert set(curves["critical pair: 4"].get_xdata()) == {math.ceil(3.22)}


def test_a_figure_has_the_rotary_base_of_its_file_and_not_another(
    factors: Factors, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []

    def draw(sets: Sequence[tuple[str, RopeFactors]]) -> Figure:
        drawn.append(figure_of_files(sets))
        return drawn[-1]

    monkeypatch.setattr("longrope.reports.figures.factors.figure_of_files", draw)
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [1.0, 4.0] * 4}
    config = {"max_position_embeddings": 1024, "original_max_position_embeddings": 256}
    config |= {"rope_theta": 500_000.0, "rope_scaling": rope}
    Path("config.json").write_text(json.dumps(config))

    def plot(*arguments: str) -> tuple[int, str, list[str]]:
        return factors("plot", "config.json", *arguments, "--output", "a.svg")

    code, _, errors = plot("--theta", "10000")
    assert code == 0
    assert "says rope theta 500000; --theta 10000 is not used" in errors[0]
    (axes,) = drawn[-1].axes
    assert axes.get_title().replace("\n", " ") == "1k tokens (4x), base 500,000, start tokens 0"
    # 8 ln(256 / 2 pi) / ln 500000 = 2.26
    assert "critical pair: 3" in [line.get_label() for line in axes.get_lines()]
    _, _, errors = plot("falls.csv", *LENGTHS)
    assert any("falls.csv does not say its rope_theta (500,000 of the others" in e for e in errors)
    # another base has a panel of its own
    assert plot("yarn.json")[0] == 0
    bases = [axes.get_title().split(", ")[1] for axes in drawn[-1].axes]
    assert bases == ["base 10,000", "base 500,000"]
    code, _, errors = plot("yarn.json", "falls.csv", *LENGTHS)
    assert (code, errors[-1]) == (
        1,
        "longrope: error: falls.csv does not say its rope_theta; give --theta.",
    )


def test_sets_of_other_lengths_have_panels_of_their_own() -> None:
    sets = [
        (name, closed_form("yarn", GEOMETRY, length))
        for name, length in (("a", 1024), ("b", 512), ("c", 1024))
    ]
    panels = [
        {str(line.get_label()) for line in axes.get_lines()} & {"a", "b", "c"}
        for axes in figure_of_files(sets).axes
    ]
    assert panels == [{"b"}, {"a", "c"}]


def test_every_file_has_a_curve_unlike_the_others_and_its_start_tokens_in_the_title() -> None:
    plain = closed_form("yarn", GEOMETRY, 512)
    sets = [(f"{n}.json", plain.model_copy(update={"num_start_tokens": n})) for n in range(9)]
    (axes,) = figure_of_files(sets).axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    # with three closed forms and the critical pair
    assert len(looks) == 9 + 3 + 1
    assert "start tokens 0 (0.json), 1 (1.json), 2" in axes.get_title().replace("\n", " ")


def test_a_picture_is_written_with_equal_bytes_for_equal_files(factors: Factors) -> None:
    files = ("yarn.json", "falls.csv", *LENGTHS, "--start-tokens", "0")
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
        (
            ("one.csv", "--output", "a.svg", *LENGTHS, "--theta", "1e4"),
            "one.csv has a single factor, which makes no",
        ),
        (
            ("one.csv", "--output", "a.svg", *LENGTHS),
            "one.csv does not say its rope_theta; give --t",
        ),
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


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models/My_Llama 3.2", "my-llama-3.2"),
        ("models/---", "model"),
        ("models/modèle", "mod-le"),
    ],
)
def test_a_search_without_a_configuration_calls_the_model_by_its_folder(
    folder: str, name: str
) -> None:
    assert model_label(Path(folder)) == name
