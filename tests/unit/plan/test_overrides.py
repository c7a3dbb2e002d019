"""Tests of `--config` of the verbs: settings laid over a configuration as Snakemake does."""

import json
import shlex
from pathlib import Path

import command_line
import pytest
from command_line import STORE, call, finish
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT
from snakemake.cli import parse_config
from snakemake.utils import update_config

from longrope.errors import UserError
from longrope.plan import build as plan
from longrope.plan import nodes
from longrope.plan.nodes import Plan
from longrope.settings import loading as configuration
from longrope.store.identity import digest

# Reading ------------------------------------------------------------------------------------------

VALUES = [
    *("1", "-3", "1_000", "0.5", "1e-3", "nan", "True", "False", "true", "null", "yes", "", "'1'"),
    *("a b", "a: b", "[1, 2]", "[1", "{a: 1}", "{'a': {'b': [1, x]}}", '{"a": true}', "2020-01-01"),
    *("!!python/object/apply:os.system [ls]", "*a", "a=b", "~", "'", "0x10", "{a: , b: 2}"),
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_read_as_snakemake_reads_it(value):
    entry = f"key={value}"
    assert repr(configuration.parse_overrides([entry])) == repr(parse_config([entry]))


@given(st.lists(st.from_regex(r"\A[a-c]{2}=[\w{}:, .']*\Z"), max_size=4))
def test_any_settings_are_read_as_snakemake_reads_them(entries):
    try:
        expected = parse_config(entries)
    except Exception:  # an assertion about values that are nothing to it
        return
    assert repr(configuration.parse_overrides(entries)) == repr(expected)


@pytest.mark.parametrize("entry", ["seed", "=1", "1a=2", "a b=1", "s=1"])
def test_what_snakemake_refuses_is_refused(entry):
    with pytest.raises(ValueError):  # Snakemake's words
        parse_config([entry])
    with pytest.raises(UserError, match="--config takes settings as key=value, got"):
        configuration.parse_overrides([entry])


def test_nested_settings_are_laid_over_a_file_key_by_key(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(command_line.CONFIG)
    given = ["seed=7", "search={num_documents: 2}", "model={stand_in: a toy}"]
    loaded = configuration.load(path, given)
    assert (loaded.seed, loaded.search.num_documents, loaded.model.path) == (7, 2, "model")
    settings = configuration.yaml.safe_load(command_line.CONFIG)
    update_config(settings, parse_config(given))
    assert loaded == configuration.parse(settings, source="")


def test_a_wrong_override_is_named_with_the_file(tmp_path):
    (tmp_path / "config.yaml").write_text(command_line.CONFIG)
    with pytest.raises(UserError, match=r"config\.yaml with --config: unknown key sead"):
        configuration.load(tmp_path / "config.yaml", ["sead=1"])


# What ran -----------------------------------------------------------------------------------------


def planned(*given: str) -> Plan:
    """Return the plan of the working directory's configuration with settings laid over it."""
    return plan.build(configuration.load(Path("config.yaml"), given), Path.cwd())


def ran(*given: str) -> Plan:
    """Finish the nodes of a plan and write the files that its run leaves behind."""
    made = planned(*given)
    finish(*made)
    for name in (made.digest[:12], made.experiment):
        nodes.write_if_changed(made, STORE / "plans" / f"{name}.json")
    return made


@pytest.fixture
def runs(tmp_path, monkeypatch) -> tuple[Plan, Plan]:
    """Plans of a run as the configuration says, and then of one with another seed."""
    monkeypatch.chdir(command_line.write_files(tmp_path / "work"))
    return ran(), ran("seed=1")


def there(made: Plan) -> bool:
    """Return whether all nodes of a plan are in the store."""
    return all((STORE / node.key / "DONE").is_file() for node in made)


def test_gc_keeps_the_run_whose_settings_it_is_given(runs, capsys):
    plain, seeded = runs
    assert call("gc", "config.yaml", "--config", "seed=1", "--delete") == 0
    assert there(seeded)
    assert not there(plain)
    said = capsys.readouterr().out
    assert f"kept: the nodes of tiny (plan {seeded.digest[:12]})\n" in said
    path = STORE / "plans" / f"{plain.digest[:12]}.json"
    assert f"NOT kept: an earlier plan of tiny, {path}: 1 nodes\n" in said
    assert "the last plan of tiny" not in said


def test_gc_says_that_it_does_not_keep_the_last_run_of_the_same_experiment(runs, capsys):
    plain, seeded = runs
    assert call("gc", "config.yaml") == 0
    said = capsys.readouterr().out
    assert "NOT kept: the last plan of tiny, results/plans/tiny.json: 1 nodes\n" in said
    assert f"kept: the nodes of tiny (plan {plain.digest[:12]})\n" in said
    assert there(plain) and there(seeded)


def test_gc_without_a_configuration_keeps_the_last_run_and_names_the_one_before(runs, capsys):
    plain, seeded = runs
    assert call("gc", "--delete") == 0
    assert there(seeded)
    assert not there(plain)
    assert f"NOT kept: an earlier plan of tiny, results/plans/{plain.digest[:12]}.json" in (
        capsys.readouterr().out
    )


def test_gc_does_not_say_of_kept_nodes_that_they_are_not(runs, capsys):
    shared = [node.key for node in runs[0] if node.key in runs[1].by_key]
    assert shared
    assert call("gc", "config.yaml", "--config", "seed=1", "--delete") == 0
    assert all((STORE / key / "DONE").is_file() for key in shared)
    capsys.readouterr()
    assert call("gc", "config.yaml", "--config", "seed=1") == 0
    assert "NOT kept" not in capsys.readouterr().out


def test_gc_takes_settings_only_beside_a_configuration(runs, capsys):
    assert call("gc", "--config", "seed=1", "--delete") == 1
    assert "gc takes --config only with the configuration" in capsys.readouterr().err
    assert there(runs[0]) and there(runs[1])


def test_verify_says_that_the_last_run_had_another_plan_and_takes_its_settings(runs, capsys):
    (search,) = runs[1].of("search")
    (STORE / search.key / "result.bin").unlink()
    assert call("verify", "config.yaml") == 0
    assert "not counted: 1 nodes of the last run of tiny, which had another plan" in (
        capsys.readouterr().out
    )
    assert call("verify", "config.yaml", "--config", "seed=1") == 1
    said = capsys.readouterr()
    assert "not counted" not in said.out
    assert "`longrope verify config.yaml --config seed=1 --repair` sets them aside" in said.err
    assert call("verify", "config.yaml", "--config", "seed=1", "--repair") == 0
    *_, command = capsys.readouterr().out.splitlines()
    assert shlex.split(command)[:6] == [
        *("snakemake", "--configfile", "config.yaml", "--config", "seed=1", "--cores")
    ]


def test_pin_and_plan_take_the_settings_of_a_run(runs, capsys):
    assert call("pin", "config.yaml", "paper", "--config", "seed=1") == 0
    assert digest(Path("results/pins/paper.json").read_text()) == runs[1].digest
    table = str(ROOT / "config" / "hardware.yaml")
    (search,) = runs[1].of("search")
    capsys.readouterr()
    assert call("plan", "config.yaml", "--config", "seed=1", "--hardware-table", table) == 0
    said = capsys.readouterr().out
    assert search.key in said
    assert "not counted" not in said
    assert call("plan", "config.yaml", "--hardware-table", table) == 0
    assert "not counted: 1 nodes of the last run of tiny" in capsys.readouterr().out
    assert json.loads((STORE / "plans" / "tiny.json").read_text())["experiment"] == "tiny"
