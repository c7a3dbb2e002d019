"""Exports as folders: whole or not there, with a card of their origin; and what is refused."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from exported_models import TARGET_LENGTH, single, table_for, write_model
from tiny_models import ORIGINAL_LENGTH

import longrope
from longrope import FactorTable, UserError
from longrope.cli.main import main
from longrope.exports import formats
from longrope.exports.registry import format_names
from longrope.store import commit


@pytest.fixture
def table(tmp_path: Path) -> FactorTable:
    """Write a model to `base`; return its table."""
    return table_for(write_model(tmp_path / "base"))


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Folders ------------------------------------------------------------------------------------------


def test_files_have_the_modes_of_new_files_whatever_those_of_the_model(
    table: FactorTable, tmp_path: Path, umask: None
) -> None:
    (tmp_path / "base/model.safetensors").chmod(0o600)
    longrope.export_model(tmp_path / "base", table, tmp_path / "out")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {0o640}
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


def test_shards_come_with_their_index(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    base.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    longrope.export_model(tmp_path / "base", table_for(base), tmp_path / "out")
    shards = [name for name in names(tmp_path / "base") if "safetensors" in name]
    assert len(shards) > 2
    assert [name for name in names(tmp_path / "out") if "safetensors" in name] == shards


def test_an_export_that_fails_leaves_nothing(
    table: FactorTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        longrope.export_model(tmp_path / "base", table, tmp_path / "out")
    assert names(tmp_path) == ["base"]


def test_a_format_is_one_module(
    table: FactorTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "formats").mkdir()
    (tmp_path / "formats/listing.py").write_text(
        "from longrope.exports.formats.huggingface import as_run, check\n"
        "def traps(export):\n    return ['Nothing runs this.']\n"
        "def write(export, folder):\n"
        "    (folder / 'factors.txt').write_text(str(export.long.factors))\n"
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "formats")])
    assert format_names() == ["huggingface", "listing"]
    done = longrope.export_model(tmp_path / "base", table, tmp_path / "out", format_name="listing")
    assert names(tmp_path / "out") == ["README.md", "factors.txt"]
    assert done.traps == ("Nothing runs this.",)
    assert "Nothing runs this." in (tmp_path / "out/README.md").read_text()


# The card -----------------------------------------------------------------------------------------


def node(store: Path, table: FactorTable) -> str:
    """Commit a node that holds a table; return its key."""
    key = "readjust/tiny-123456789abc"
    facts: dict[str, object] = {"git": {"commit": "c0ffee", "dirty": True}}
    commit.run(store, key, {}, lambda work: table.save(work / "factor_table.json"), lambda: facts)
    return key


def test_a_card_names_origin_lengths_licence_stand_ins_and_traps(
    table: FactorTable, tmp_path: Path
) -> None:
    store = tmp_path / "results"
    key = node(store, table)
    stand_ins = {"model": "a toy for LLaMA2-7B", "corpora": {"books": None}}
    (store / "plans").mkdir()
    plan = {"nodes": {key: {}}, "stand_ins": stand_ins}
    (store / "plans/demo.json").write_text(json.dumps(plan))
    (tmp_path / "base/README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (tmp_path / "base/LICENSE.txt").write_text("Terms.")
    longrope.export_model(tmp_path / "base", key, tmp_path / "out", sets="both", store=store)
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    for text in (
        "extended from 64 to 256 tokens (4 times)",
        f"node `{key}`, made by the code of commit c0ffee with edits",
        "**Stand-in:** a toy for LLaMA2-7B",
        "license: apache-2.0; the terms in LICENSE.txt",
        "must not grow past 64 tokens with a cache",
        "one attention scale for both sets, 1.25; the short set was made for 1,",
        "--max-model-len 256",
        "was not measured",
    ):
        assert text in card
    assert (tmp_path / "out/LICENSE.txt").read_text() == "Terms."


def test_a_fine_tuned_model_is_under_the_licence_of_its_base(
    table: FactorTable, tmp_path: Path
) -> None:
    base, store = tmp_path / "base", tmp_path / "results"
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    (base / "chat_template.jinja").write_text("{{ messages }}")
    spec = {"raw": {"tokenizer": {"path": str(base), "files": {}}}, "inputs": {}}

    def fill(work: Path) -> None:
        (work / "model").mkdir()
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            shutil.copy(base / name, work / "model" / name)
        table.entries[-1].save(work / "factors.json")

    key = "finetune/tiny-256-123456789abc"
    commit.run(store, key, spec, fill, dict)
    longrope.export_model(store / key, key, tmp_path / "out", store=store)
    card = (tmp_path / "out/README.md").read_text()
    assert "license: mit" in card
    assert "# tiny-256-123456789abc with a window of 256 tokens" in card
    assert (tmp_path / "out/chat_template.jinja").is_file()


def test_a_card_of_equal_sets_does_not_warn_of_mixed_ones(
    table: FactorTable, tmp_path: Path
) -> None:
    done = longrope.export_model(tmp_path / "base", table, tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert not [trap for trap in done.traps if "mixed" in trap]
    assert "keep it beside this folder" in card
    assert "The factors for 64 tokens are left out" in card
    assert "does not state its licence" in card


def test_one_set_becomes_two_with_the_pretrained_embedding(
    table: FactorTable, tmp_path: Path
) -> None:
    long = table.entries[-1]
    longrope.export_model(tmp_path / "base", long, tmp_path / "out", sets="both")
    block = json.loads((tmp_path / "out/config.json").read_text())["rope_parameters"]
    assert block["short_factor"] == [1.0] * len(long.factors)
    assert block["long_factor"] == list(long.factors)
    assert "it is the pretrained embedding" in (tmp_path / "out/README.md").read_text()


def test_the_length_chooses_the_entry(table: FactorTable, tmp_path: Path) -> None:
    longer = table.entries[-1].model_copy(update={"target_length": 512})
    three = FactorTable(entries=(*table.entries, longer))
    for length, folder in ((None, "longest"), (TARGET_LENGTH, "chosen")):
        longrope.export_model(tmp_path / "base", three, tmp_path / folder, length=length)
    targets = [
        json.loads((tmp_path / folder / "config.json").read_text())["max_position_embeddings"]
        for folder in ("longest", "chosen")
    ]
    assert targets == [512, 256]


# Refusals -----------------------------------------------------------------------------------------


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


Change = Callable[[Path, FactorTable], Any]
REFUSED: dict[str, tuple[Change, str]] = {
    "pairs": (
        lambda base, table: changed(table, factors=(1.0, 4.0)),
        "is for a model with rotary pairs 2, but .*base has 8; give the model",
    ),
    "theta": (
        lambda base, table: changed(table, rope_theta=5e5),
        "rope_theta 500000, but .*base has 10000",
    ),
    "rotated share": (
        lambda base, table: changed(table, partial_rotary_factor=0.5),
        "partial_rotary_factor 0.5, but .*base has 1",
    ),
    "width": (
        lambda base, table: changed(table, hidden_size=4096),
        "hidden_size 4096, but .*base has 64",
    ),
    "start tokens": (
        lambda base, table: changed(table, num_start_tokens=4),
        "leaves 4 start tokens unscaled, which no engine can; give --drop-start-tokens",
    ),
    "nothing extended": (
        lambda base, table: changed(table, target_length=ORIGINAL_LENGTH),
        "the factors for 64 tokens extend nothing",
    ),
    "no weights": (
        lambda base, table: (base / "model.safetensors").unlink(),
        r"base has no \*.safetensors",
    ),
    "no tokenizer": (
        lambda base, table: (base / "tokenizer.json").unlink(),
        "base has no tokenizer.json",
    ),
    "no config": (lambda base, table: (base / "config.json").unlink(), "base has no config.json"),
    "architecture": (
        lambda base, table: edit(base, model_type="gemma3"),
        "base is of type 'gemma3', which is not supported",
    ),
    "target": (
        lambda base, table: (base.parent / "out").mkdir(),
        "out is there already; name another folder or remove it",
    ),
}


def changed(table: FactorTable, **changes: object) -> FactorTable:
    return single(table.entries[-1].model_copy(update=changes))


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_refused_in_one_sentence_and_nothing_is_written(
    mistake: str, table: FactorTable, tmp_path: Path
) -> None:
    change, sentence = REFUSED[mistake]
    result = change(tmp_path / "base", table)
    factors = result if isinstance(result, FactorTable) else table
    before = names(tmp_path)
    with pytest.raises(UserError, match=sentence):
        longrope.export_model(tmp_path / "base", factors, tmp_path / "out")
    assert names(tmp_path) == before


def test_a_damaged_node_an_absent_one_and_an_unknown_format_are_refused(
    table: FactorTable, tmp_path: Path
) -> None:
    store = tmp_path / "results"
    key = node(store, table)
    base, out = tmp_path / "base", tmp_path / "out"
    with pytest.raises(UserError, match="search/none is neither a file of factors nor a node of"):
        longrope.export_model(base, "search/none", out, store=store)
    with pytest.raises(UserError, match="'gptq' is no format of exports; choose huggingface"):
        longrope.export_model(base, key, out, store=store, format_name="gptq")
    with pytest.raises(UserError, match="no factors for 99 tokens; choose --length out of 64, 256"):
        longrope.export_model(base, key, out, store=store, length=99)
    (store / key / "factor_table.json").write_text("{}")
    with pytest.raises(
        UserError, match=r"is not a sound node .factor_table.json is missing or has"
    ):
        longrope.export_model(base, key, out, store=store)
    assert not (store / ".trash").exists()


def test_texts_that_are_too_short_are_refused_before_anything_is_written(
    table: FactorTable, tmp_path: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("a" * 100)
    with pytest.raises(
        UserError, match=r"none of the texts has 256 tokens \(the longest has 100\)"
    ):
        longrope.export_model(tmp_path / "base", table, tmp_path / "out", texts=[text])
    assert names(tmp_path) == ["base", "short.txt"]


# The command line ---------------------------------------------------------------------------------


def test_the_verbs_export_and_import_there_and_back(
    table: FactorTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    table.save("table.json")
    export = ["export", "table.json", "--model", "base", "--to", "out", "--sets", "both"]
    assert main(export) == 0
    output, errors = capsys.readouterr()
    assert output.splitlines()[-1] == "out"
    assert "was not measured" in output
    assert "longrope: warning: In transformers a text must not grow past 64 tokens" in errors
    assert main(["import", "out", "--output", "back.json"]) == 0
    back = FactorTable.read("back.json")
    assert [e.identity() for e in back.entries] == [e.identity() for e in table.entries]
    assert back.entries[0].provenance == {"imported_from": "out"}
    capsys.readouterr()
    assert main(["import", "out", "--output", "back.json"]) == 1
    assert "back.json is there already" in capsys.readouterr().err
    assert main(export) == 1
    assert capsys.readouterr().err == (
        "longrope: error: out is there already; name another folder or remove it.\n"
    )
