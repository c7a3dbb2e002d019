"""Tests of the conversion of hyper-parameter files of the public code, through the command line."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from longrope.cli.main import main
from longrope.settings import loading as configuration

THEIRS = {
    "evo_scale": 1.0,
    "population_size": 64,
    "max_time_budget": 40,
    "mutation_numbers": 16,
    "crossover_size": 16,
    "max_crossover_try": 20,
    "parents_size": 32,
    "list_step": 0.01,
}
"""values in all files of the public code"""
CONFIG = {
    "experiment": "small",
    "model": {"name": "own", "path": "own", "original_length": 4096},
    "corpora": {"own": {"source": {"kind": "local", "files": {"validation": ["a.txt"]}}}},
    "search": {"documents": {"corpus": "own", "split": "validation"}},
    "extension": [{"target_length": 8192}],
}


def config(search=None, **changes):
    """Return a whole configuration with changes, those of its search apart."""
    return CONFIG | changes | {"search": CONFIG["search"] | (search or {})}


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    """Return a function that converts contents; it returns the block or None, and the lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(content, output, *options):
        Path("in.json").write_text(json.dumps(content))
        Path(output).unlink(missing_ok=True)
        code = main(["factors", "convert", "in.json", output, *options])
        lines = capsys.readouterr().err.splitlines()
        assert code == (not Path(output).exists())
        text = Path(output).read_text() if code == 0 else None
        return text and yaml.safe_load(text), lines

    return run


def test_a_file_becomes_the_search_block_of_the_public_algorithm(convert):
    assert convert(THEIRS, "out.yaml") == (
        {
            "search": {
                "algorithm": {
                    "name": "evolution-public",
                    "population_size": 64,
                    "num_iterations": 40,
                    "num_mutations": 16,
                    "num_crossovers": 16,
                    "num_parents": 32,
                    "halve_above": None,
                },
                "grid": 0.01,
            }
        },
        [],
    )


def test_the_scale_multiplies_the_counts_and_not_the_step_and_what_is_not_held_is_told(convert):
    theirs = THEIRS | {"evo_scale": 0.1, "max_crossover_try": 30, "verbose": True}
    block, lines = convert(theirs, "out.yaml")
    # rounded towards zero, as int() does there: 6.4, 4, 1.6, 1.6, 3.2
    names = ("population_size", "num_iterations", "num_mutations", "num_crossovers", "num_parents")
    assert [block["search"]["algorithm"][name] for name in names] == [6, 4, 1, 1, 3]
    assert block["search"]["grid"] == 0.01
    assert lines == [
        "longrope: warning: out.yaml does not hold evo_scale (0.1, which the counts are multiplied by), "
        "max_crossover_try (30, here always 20), verbose."
    ]


@effort(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    population_size=st.integers(3, 500),
    max_time_budget=st.integers(0, 500),
    mutation_numbers=st.integers(0, 500),
    crossover_size=st.integers(0, 500),
    parents_size=st.integers(1, 500),
    list_step=st.floats(1e-6, 10),
)
def test_the_block_is_the_search_that_the_file_means(convert, **numbers):
    block, lines = convert(THEIRS | numbers, "out.yaml")
    assert lines == []
    search = configuration.parse(config(block["search"]), source="block").search
    algorithm = search.algorithm
    assert (algorithm.name, search.grid) == ("evolution-public", numbers["list_step"])
    counts = (algorithm.population_size, algorithm.num_iterations, algorithm.num_mutations)
    assert counts == tuple(
        numbers[name] for name in ("population_size", "max_time_budget", "mutation_numbers")
    )
    assert (algorithm.num_crossovers, algorithm.num_parents) == (
        numbers["crossover_size"],
        numbers["parents_size"],
    )


@pytest.mark.parametrize(
    ("content", "arguments", "sentence"),
    [
        (THEIRS | {"parents_size": float("inf")}, ("out.yaml",), "in.json: crossover_size, evo_sc"),
        (THEIRS, ("out.csv",), "in.json holds settings of a search; give a .yaml file for the bl"),
        (THEIRS, ("out.yaml", "--to", "csv"), "in.json holds settings of a search; give a .yaml"),
        (THEIRS | {"evo_scale": 0.01}, ("out.yaml",), "in.json: algorithm.population_size shou"),
        (THEIRS | {"evo_scale": "1"}, ("out.yaml",), "in.json: crossover_size, evo_scale, list_s"),
        (
            THEIRS | {"list_step": 0},
            ("out.yaml",),
            "in.json: grid should be greater than or equal to",
        ),
        (THEIRS, ("none/out.yaml",), "none/out.yaml cannot be written: No such file"),
    ],
)
def test_what_cannot_be_converted_is_refused_in_one_sentence(convert, content, arguments, sentence):
    written, (line,) = convert(content, *arguments)
    assert written is None
    assert line.startswith(f"longrope: error: {sentence}"), line


def test_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("in.json").write_text(json.dumps(THEIRS))
    Path("out.yaml").write_text("mine")
    assert main(["factors", "convert", "in.json", "out.yaml"]) == 1
    assert "out.yaml is there already" in capsys.readouterr().err
    assert Path("out.yaml").read_text() == "mine"
