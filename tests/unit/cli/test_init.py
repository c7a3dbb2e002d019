"""`longrope init`: a configuration that runs as it is, made of a model and texts."""

from pathlib import Path

import pytest
import workflow_files
import yaml
from command_line import call

from longrope.plan import build as planning
from longrope.settings import loading


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with a random model of 128 tokens and five texts of 1,500 words."""
    monkeypatch.chdir(tmp_path)
    workflow_files.write_model(tmp_path / "Model v1.0")
    (tmp_path / "texts").mkdir()
    for number in range(5):
        workflow_files.write_text(tmp_path / "texts" / f"{number}.txt", 1500, number)
    return tmp_path


def test_a_configuration_of_five_texts_is_planned_without_any_edit(folder, capsys):
    assert call("init", "Model v1.0", "texts", "--cpu") == 0
    printed = capsys.readouterr().out
    path = Path("model-v1-0-1024.yaml")
    assert f"snakemake --cores all --configfile {path}" in printed
    config = loading.load(path)
    assert (config.model.original_length, config.hardware, config.dtype) == (128, "cpu", "float32")
    assert [step.target_length for step in config.extension] == [1024]
    assert config.evaluate.passkey.lengths == [128, 256, 512, 1024]
    kinds = {node.kind for node in planning.build(config, folder)}
    assert kinds == {"tokenize", "search", "evaluate"}


def test_the_commented_fine_tuning_is_a_fine_tuning_once_its_signs_are_removed(folder):
    assert call("init", "Model v1.0", "texts", "--cpu", "--output", "mine.yaml") == 0
    lines = Path("mine.yaml").read_text().splitlines()
    signs = ("# finetune", "#   documents", "#   num_steps", "# readjust")
    edited = [
        line.replace("# ", "", 1) if line.strip().startswith(signs) else line for line in lines
    ]
    config = loading.parse(yaml.safe_load("\n".join(edited)), source="mine.yaml")
    plan = planning.build(config, folder)
    assert len(plan.of("finetune")) == len(plan.of("readjust")) == 1


@pytest.mark.parametrize(("words", "target"), [(1500, 1024), (400, 256), (300, 256)])
def test_the_target_length_is_one_that_the_texts_have(folder, words, target):
    for path in Path("texts").iterdir():
        workflow_files.write_text(path, words, 0)
    tokens = words * 1.5  # about; the tokenizer splits some of the words
    assert tokens > target
    assert call("init", "Model v1.0", "texts", "--cpu", "--output", "mine.yaml") == 0
    assert loading.load(Path("mine.yaml")).extension[0].target_length == target


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["Model v1.0", "texts", "--target-length", "9000"],
            "no validation document has 9,000 tokens",
        ),
        (
            ["Model v1.0", "texts", "--target-length", "128"],
            "--target-length must exceed the original",
        ),
        (["Model v1.0", "texts/0.txt"], "five documents or more make three splits"),
        (["Model v1.0", "nowhere"], "no such"),
        (["elsewhere", "texts"], "elsewhere"),
        (["Model v1.0", "texts", "--hardware", "h100"], "h100"),
    ],
)
def test_what_cannot_be_started_with_is_refused_in_a_sentence(folder, capsys, arguments, sentence):
    assert call("init", *arguments) == 1
    assert sentence in capsys.readouterr().err
    assert not list(Path().glob("*.yaml"))


def test_a_configuration_that_is_there_is_left_as_it_is(folder, capsys):
    Path("mine.yaml").write_text("precious\n")
    assert call("init", "Model v1.0", "texts", "--output", "mine.yaml") == 1
    assert "mine.yaml exists" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "precious\n"


def test_lengths_without_room_for_a_prompt_get_no_passkeys(folder, capsys):
    arguments = ("init", "Model v1.0", "texts", "--cpu", "--output", "mine.yaml")
    assert call(*arguments, "--original-length", "16", "--target-length", "256") == 0
    config = loading.load(Path("mine.yaml"))
    assert config.evaluate.perplexity.lengths["texts"] == [16, 32, 64, 128, 256]
    lengths = config.evaluate.passkey.lengths
    assert lengths and lengths == [n for n in (16, 32, 64, 128, 256) if n >= lengths[0]]
    text = Path("mine.yaml").read_text()
    Path("mine.yaml").write_text(text.replace(f"lengths: {lengths}", "lengths: [16, 256]"))
    assert call("plan", "mine.yaml") == 1
    assert "evaluate.passkey.lengths has 16, but a prompt without filler" in capsys.readouterr().err
