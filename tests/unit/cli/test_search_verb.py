"""`longrope search`: which models it takes, and what it plans for them."""

from pathlib import Path

import pytest
from checkpoints import write_checkpoint
from command_line import call

from longrope.cli import search

REVISION = "a" * 40
QWEN = {
    "max_position_embeddings": 32,
    "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
}


@pytest.fixture
def computed(tmp_path, monkeypatch):
    """Give a folder with a text; return the nodes that would be computed, in their order."""
    monkeypatch.chdir(tmp_path)
    Path("own.txt").write_text("one two one")
    nodes = []
    monkeypatch.setattr(search, "prepare", lambda threads: None)
    monkeypatch.setattr(search, "compute", lambda key, known, _: nodes.append(known[key]))
    return nodes


def searched(*arguments: str) -> int:
    return call("search", *arguments, "--target-length", "64")


def settings_of(nodes: list[dict]) -> dict:
    (node,) = [node for node in nodes if node["kind"] == "search"]
    return node["settings"]


def test_a_window_is_switched_off_as_its_refusal_asks(computed, capsys):
    write_checkpoint(Path("model"), "mistral", sliding_window=4)
    assert searched("model", "own.txt") == 1
    assert "(--full-attention) to switch the window off" in capsys.readouterr().err
    assert searched("model", "own.txt", "--full-attention") == 0
    settings = settings_of(computed)
    assert (settings["full_attention"], settings["original_length"]) == (True, 4)


def test_a_block_is_dropped_as_its_refusal_asks(computed, capsys):
    write_checkpoint(Path("model"), "qwen2", **QWEN)
    assert searched("model", "own.txt") == 1
    assert "(--rope-scaling drop)" in capsys.readouterr().err
    assert searched("model", "own.txt", "--rope-scaling", "drop") == 0
    settings = settings_of(computed)
    assert (settings["rope_scaling"], settings["original_length"]) == ("drop", 8)


def test_a_model_without_a_block_has_no_such_setting_in_its_digest(computed):
    write_checkpoint(Path("model"), "llama")
    assert searched("model", "own.txt") == 0
    assert "rope_scaling" not in settings_of(computed)


@pytest.mark.parametrize(("length", "said"), [("4", ""), ("8", "within a sliding window of 4")])
def test_an_original_length_above_the_window_is_said_once(computed, capsys, length, said):
    write_checkpoint(Path("model"), "phi3", sliding_window=4)
    assert searched("model", "own.txt", "--full-attention", "--original-length", length) == 0
    warnings = capsys.readouterr().err
    assert warnings.count("warning") == bool(said)
    assert said in warnings


def test_a_model_of_the_hub_is_fetched_and_then_searched_within_its_window(computed, monkeypatch):
    def compute(key: str, known: dict, options: object) -> None:
        computed.append(known[key])
        if known[key]["kind"] == "fetch":
            write_checkpoint(Path("results", key), "llama", max_position_embeddings=16)

    monkeypatch.setattr(search, "compute", compute)
    assert searched("owner/name", "own.txt", "--revision", REVISION) == 0
    assert computed[0]["settings"]["repo"] == "owner/name"
    assert computed[0]["settings"]["revision"] == REVISION
    assert settings_of(computed)["original_length"] == 16
    assert {node["digest"] for node in computed if node["kind"] == "fetch"} == {
        computed[0]["digest"]
    }


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["owner/name"], "a model of the hub with a pinned revision (model.hub, --revision)."),
        (["owner/name", "--revision", "main"], "model.hub.revision should match ^[0-9a-f]{40}$"),
        (["model", "--revision", REVISION], "--revision is for a model of the hub, but model is"),
        (["model"], "does not tell max_position_embeddings; give --original-length."),
    ],
)
def test_a_model_that_cannot_be_meant_is_refused(computed, capsys, arguments, reason):
    write_checkpoint(Path("model"), "llama", max_position_embeddings=None)
    assert searched(arguments[0], "own.txt", *arguments[1:]) == 1
    assert reason in capsys.readouterr().err
    assert computed == []


def test_a_sound_original_length_of_a_hub_model_needs_no_fetch_before_the_plan(computed):
    arguments = ["owner/name", "own.txt", "--revision", REVISION, "--original-length", "16"]
    assert searched(*arguments) == 0
    assert [node["kind"] for node in computed].count("fetch") == 1
    assert settings_of(computed)["original_length"] == 16
