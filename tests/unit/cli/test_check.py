"""`longrope check`: every mistake in one go, of the configuration and of what it names."""

import subprocess
import sys
from pathlib import Path

import command_line
import pytest
from command_line import call, edit
from repository import ROOT

from longrope.cli import check, main
from longrope.errors import UserError


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working directory with a configuration of four nodes."""
    monkeypatch.chdir(command_line.write_files(tmp_path / "work"))


def lines(capsys, *arguments: str) -> list[str]:
    """Return the mistakes that are printed, one a line."""
    assert call("check", "config.yaml", *arguments) == 1
    printed = capsys.readouterr()
    mistakes: list[str] = printed.out.splitlines()
    number = f"{len(mistakes)} mistake{'s' * (len(mistakes) > 1)}"
    assert printed.err == f"longrope: error: config.yaml has {number}.\n"
    return mistakes


def test_a_configuration_without_mistake_has_its_cost_and_makes_nothing(capsys):
    assert call("check", "config.yaml", "--config", "hardware=cpu") == 0
    first, cost = capsys.readouterr().out.splitlines()
    assert first == "config.yaml can be run."
    assert cost.startswith("4 nodes: at most ") and "of one thread on cpu" in cost
    assert {path.name for path in Path("results").iterdir()} == {".raw-files.json"}


def test_mistakes_of_keys_of_lengths_and_of_files_are_named_together(capsys):
    edit("experiment: tiny", "experiment: tiny\nhardwear: cpu")
    edit("path: model", "path: modell")
    edit("test: [other.txt]", "test: [none.txt]")
    edit("target_length: 16", "target_length: 4")
    edit("num_documents: {Own: 1}", "num_documents: {Own: true}")
    *others, last = lines(capsys)
    assert others == [
        "unknown key hardwear (did you mean hardware?).",
        "evaluate.perplexity.num_documents.Own should be a number, got true.",
        "extension.0.target_length must exceed model.original_length (8), got 4.",
        f"model.path: {Path.cwd()}/modell has no config.json; give the folder of a transformers model, or a "
        "model of the hub with a pinned revision (model.hub, --revision).",
    ]
    assert last.startswith(
        f"corpora.own.source.files.test: {Path.cwd()}/none.txt: there is no such file"
    )


def test_an_overriding_setting_is_checked_too(capsys):
    (line,) = lines(capsys, "--config", "hardware=cpuu")
    assert line.startswith("hardware: no machine 'cpuu' in ") and line.endswith("did you mean cpu?")


def test_nothing_is_said_of_files_that_stand_in_for_a_missing_section(capsys):
    edit("model: {name: tiny, path: model, original_length: 8}\n", "")
    assert lines(capsys) == ["key model is missing; add it (see config/README.md)."]


def test_a_model_without_an_end_token_is_refused_before_its_fine_tuning(capsys):
    content = Path("model/config.json").read_text()
    Path("model/config.json").write_text(content.replace("{", '{"eos_token_id": null, ', 1))
    assert call("check", "config.yaml") == 0
    edit(
        "target_length: 16",
        "target_length: 16, finetune: {num_steps: 20, documents: {corpus: own, split: train}}",
    )
    capsys.readouterr()
    (line,) = lines(capsys, "--config", "micro_batch_size=32")
    assert line.startswith(
        f"model.path: {Path.cwd()}/model names no EOS, which ends every document"
    )


def test_a_file_of_two_splits_is_a_warning(capsys):
    edit("test: [other.txt]", "test: [other.txt, own.txt]")
    assert call("check", "config.yaml") == 0
    assert capsys.readouterr().err == (
        "longrope: warning: own.txt is in two splits, own.train and own.test: what is measured on one was "
        "seen in the other.\n"
    )


def test_a_file_in_place_of_the_store_has_its_sentence(capsys):
    Path("afile").write_text("")
    assert call("plan", "config.yaml", "--store", "afile") == 1
    assert capsys.readouterr().err == (
        "longrope: error: afile cannot be a folder, since a file is in its way (File exists); give another "
        "path, or move the file.\n"
    )


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (KeyboardInterrupt(), 130, "longrope: interrupted"),
        (UserError("choose another."), 1, "longrope: error: choose another."),
        (FileNotFoundError(2, "No such file", "a/b"), 1, "longrope: error: a/b: No such file."),
    ],
)
def test_an_interruption_and_a_mistake_have_exit_codes_and_no_traceback(
    raised, code, sentence, monkeypatch, capsys
):
    def fails(*_: object) -> None:
        raise raised

    monkeypatch.setattr(check.loading, "read_mapping", fails)
    assert main.main(["check", "config.yaml"]) == code
    assert capsys.readouterr().err == f"{sentence}\n"


def test_ctrl_c_while_libraries_are_imported_ends_without_a_traceback(tmp_path):
    (tmp_path / "yaml.py").write_text("raise KeyboardInterrupt")
    ended = subprocess.run(
        [sys.executable, "-m", "longrope", "check", "any.yaml"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (130, "longrope: interrupted\n")
