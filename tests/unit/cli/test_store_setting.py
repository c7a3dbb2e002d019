"""`results` of a configuration: the store that verbs use unless `--store` names another."""

from pathlib import Path

import pytest
import yaml
from command_line import STORE, call, edit, finish, planned, write_files

from longrope.cli.common import planned as planned_with_memory
from longrope.errors import UserError
from longrope.plan.nodes import Plan, write_if_changed
from longrope.settings import loading as configuration

ELSEWHERE = Path("other disk/store")


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    """Return the plan whose nodes are all done in ELSEWHERE, which the configuration names."""
    monkeypatch.chdir(write_files(tmp_path))
    before = planned()
    finish(*before)
    write_if_changed(before, STORE / "plans" / "tiny.json")
    ELSEWHERE.parent.mkdir()
    STORE.rename(ELSEWHERE)
    edit("experiment: tiny", f"experiment: tiny\nresults: ./{ELSEWHERE}/")
    return before


def test_no_digest_depends_on_the_folder_of_results(plan):
    assert planned().to_json() == plan.to_json()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "config.yaml"], "4 of 4 nodes done"),
        (["verify", "config.yaml"], "4 of 4 finished nodes are sound"),
        (["pin", "config.yaml", "paper"], f"{ELSEWHERE}/pins/paper.json: 4 of 4 nodes are done"),
        (["gc", "config.yaml"], "dead: 0 B in 0 places"),
    ],
)
def test_a_verb_finds_the_nodes_in_the_configurations_folder(plan, capsys, arguments, said):
    assert call(*arguments) == 0
    assert said in capsys.readouterr().out
    assert not STORE.exists()


def test_a_given_store_wins(plan, capsys):
    assert call("plan", "config.yaml", "--store", "results") == 0
    assert "0 of 4 nodes done" in capsys.readouterr().out


def test_an_overridden_folder_wins_over_the_files(plan, capsys):
    assert call("plan", "config.yaml", "--config", "results=third") == 0
    assert "0 of 4 nodes done" in capsys.readouterr().out
    assert Path("third/.raw-files.json").is_file()


def test_hashes_of_raw_files_are_remembered_in_the_configurations_folder(plan):
    (ELSEWHERE / ".raw-files.json").unlink(missing_ok=True)
    planned_with_memory(Path("config.yaml"))
    assert (ELSEWHERE / ".raw-files.json").is_file()


def test_stale_code_is_accepted_from_the_configurations_folder(plan, capsys):
    assert call("accept", "--all", "config.yaml") == 1
    assert "no stale node of config.yaml differs by its code alone" in capsys.readouterr().err
    assert not STORE.exists()


def test_configurations_of_several_folders_are_refused_together(plan, capsys):
    Path("other.yaml").write_text(Path("config.yaml").read_text().replace("other disk", "a disk"))
    assert call("gc", "config.yaml", "other.yaml", "--delete") == 1
    sentence = capsys.readouterr().err
    assert f"results in a disk/store and {ELSEWHERE}; give one as --store." in sentence
    assert call("gc", "config.yaml", "other.yaml", "--store", str(ELSEWHERE)) == 0


@pytest.mark.parametrize(
    "name", ["", ".", "/", "~/store", "a{b}", "a*", "a?", "a\nb", "..", "a/.."]
)
def test_a_folder_that_no_rule_could_write_to_is_refused(plan, name):
    settings = yaml.safe_load(Path("config.yaml").read_text()) | {"results": name}
    with pytest.raises(UserError, match=r"results: give the path of a folder"):
        configuration.parse(settings, source="config.yaml")
