"""Token stores of splits that divide the same files."""

import json
from pathlib import Path

import workflow_files

from longrope.runtime import Input
from longrope.settings.nodes import TokenizeNode
from longrope.settings.sources import CorpusSettings
from longrope.stages import tokenize

NAMES = [f"{number}.txt" for number in range(7)]


def test_splits_have_all_documents_between_them_and_none_twice(tmp_path):
    workflow_files.write_model(tmp_path / "model")
    for number, name in enumerate(NAMES):
        workflow_files.write_text(tmp_path / name, 20, number)
    corpus = CorpusSettings(
        source={"kind": "local", "files": {"all": ["."]}}, splits={"train": 2, "test": 1}
    )
    documents = {
        split: names_of(tmp_path, TokenizeNode(share=corpus.share(split)), split)
        for split in ("train", "test")
    }
    assert documents == {"train": ["0", "2", "3", "5", "6"], "test": ["1", "4"]}


def names_of(folder: Path, settings: TokenizeNode, split: str) -> list[str]:
    out = folder / f"{split}-tokens"
    out.mkdir()
    inputs = {
        "documents": Input(folder, "digest", tuple(NAMES)),
        "tokenizer": Input(folder / "model", "digest"),
    }
    tokenize.run(settings, inputs, out, None)
    return json.loads((out / "tokens.json").read_text())["names"]
