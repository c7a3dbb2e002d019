"""Rows cut from documents of any length, one after the other; and how many rows there are."""

import re
from itertools import chain, pairwise, permutations

import node_settings
import numpy as np
import parallel_runs
import pytest
import torch
import workflow_files
from characters import character_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from mixed_rows import mix, write_documents
from small_trainings import SETTINGS, run_stage
from tiny_models import ORIGINAL_LENGTH, build
from tokenizers import Tokenizer, models
from tolerances import REORDERED

from longrope.data.prompts import QUESTION
from longrope.errors import UserError
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.rope.factors import RopeFactors
from longrope.runtime import Input
from longrope.stages import finetune
from longrope.training.parallel import Layout, MicroBatchSampler, RowShards
from longrope.training.rows import Chunks, Mixed, Skipped, Windows

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


TOKENIZER = character_tokenizer(first=2, count=22_000)


def packed(store, length=16, **changes):
    return Chunks(store, TOKENIZER, mix(length, packed=True, **changes))


def rows_of(chunks, num_rows):
    return [chunks[index]["input_ids"].tolist() for index in range(num_rows)]


# Rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_documents_of_any_length_make_one_stream_with_eos_that_is_cut_without_bos(tmp_path, seed):
    store = write_documents(tmp_path / "tokens", [3, 30, 12])
    documents = [[*range(1000 * n, 1000 * n + size), 1] for n, size in ((1, 3), (2, 30), (3, 12))]
    streams = [list(chain(*order)) for order in permutations(documents)]
    # 48 tokens with EOS: three rows of 16
    cut = [sorted([stream[:16], stream[16:32], stream[32:]]) for stream in streams]
    assert sorted(rows_of(packed(store, seed=seed, begin=()), 3)) in cut


@pytest.mark.parametrize("seed", range(6))
def test_with_bos_each_document_and_each_row_begins_with_it(tmp_path, seed):
    store = write_documents(tmp_path / "tokens", [3, 30, 9])
    chunks = packed(store, seed=seed)
    rows = rows_of(chunks, chunks.num_available)
    assert len(rows) == 3
    orders = permutations([(1, 3), (2, 30), (3, 9)])
    assert sorted(rows) in [sorted(cut_by_hand(order)) for order in orders]


def cut_by_hand(documents, length=16):
    """Return rows, token after token: BOS opens a row, and a document that does not open one."""
    rows, row = [], [0]
    for number, size in documents:
        for place, token in enumerate([*range(1000 * number, 1000 * number + size), 1]):
            row += [0] * (place == 0 and row != [0] and len(row) < length)
            if len(row) == length:
                rows, row = [*rows, row], [0]
            row.append(token)
    return [*rows, row] if len(row) == length else rows


@given(
    lengths=st.lists(st.integers(1, 60), min_size=8, max_size=12),
    length=st.sampled_from([3, 4, 16]),
    seed=st.integers(0, 3),
    begin=st.sampled_from([(), (0,), (0, 0)]),
)
def test_an_epoch_has_every_token_once_but_for_less_than_a_row(
    tmp_path_factory, lengths, length, seed, begin
):
    store = write_documents(tmp_path_factory.mktemp("any") / "tokens", lengths)
    chunks = packed(store, length, seed=seed, begin=begin)
    epoch = rows_of(chunks, chunks.num_available)
    assert {(len(row), tuple(row[: len(begin)])) for row in epoch} == {(length, begin)}
    left = sum(lengths) + len(lengths) - sum(token > 0 for row in epoch for token in row)
    assert 0 <= left < length
    tokens = [token for row in epoch for token in row if token > 1]
    assert len(set(tokens)) == len(tokens)
    firsts = {1000 * number for number in range(1, len(lengths) + 1)}
    lasts = {1000 * number + size - 1 for number, size in enumerate(lengths, start=1)}
    for place, before, after in (
        (place, *pair) for row in epoch for place, pair in enumerate(pairwise(row))
    ):
        if before == 0:
            # behind the BOS of a row a document may go on, or end
            assert after in firsts | {0} or place < len(begin)
        elif before == 1:
            assert after == 0 if begin else after in firsts
        elif before in lasts:
            assert after == 1
        else:
            assert after == before + 1


def test_documents_and_rows_are_ordered_by_the_seed_and_by_nothing_read_before(tmp_path):
    store = write_documents(tmp_path / "tokens", [5] * 60)
    chunks, again, other = (packed(store, seed=seed) for seed in (0, 0, 1))
    rows = rows_of(chunks, 50)
    assert rows_of(again, 50) == rows
    assert [again[index]["input_ids"].tolist() for index in reversed(range(50))] == rows[::-1]
    assert set(map(tuple, rows_of(other, 27))) != set(map(tuple, rows[:27])), "other neighbours"
    # 420 tokens: 27 rows, and the second epoch has the same in another order
    assert sorted(rows[:27]) == sorted(rows_of(packed(store, num_rows=60), 54)[27:])
    assert rows[:23] != rows[27:]


@pytest.mark.parametrize(("groups", "size"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_any_number_of_processes_trains_on_the_same_packed_rows_in_every_step(
    tmp_path, groups, size
):
    chunks = packed(write_documents(tmp_path / "tokens", [7, 40, 3, 90, 12] * 3), num_rows=24)
    layouts = [Layout(groups * size, rank, size) for rank in range(groups * size)]
    steps = [[] for _ in range(3)]
    for layout in layouts:
        shards = RowShards(chunks, layout)
        # batches of 8 rows, micro-batches of 2
        micro_batches = list(MicroBatchSampler(layout, 24, 2))
        for number, places in enumerate(micro_batches):
            step = steps[number * 3 // len(micro_batches)]
            step.extend(shards[place]["input_ids"].tolist() for place in places)
    for step, rows_of_step in enumerate(steps):
        rows = rows_of(chunks, 24)[8 * step : 8 * step + 8]
        parts = [row[at : at + 16 // size] for row in rows for at in range(0, 16, 16 // size)]
        assert sorted(rows_of_step) == sorted(parts)


def test_passkeys_hide_in_packed_text_too(tmp_path):
    store = write_documents(tmp_path / "tokens", [50] * 20)
    chunks = packed(store, 300, passkey_fraction=1.0)
    question = TOKENIZER.encode(QUESTION).ids
    rows = rows_of(chunks, 20)
    assert all(row[-6 - len(question) : -6] == question for row in rows)
    of_text = [row for row in rows if max(row) >= 1000]
    assert 0 < len(of_text) < 20, "the others hide in the classic filler"


@pytest.mark.parametrize("way", ["plain", "mixed", "skipped"])
def test_every_token_of_a_packed_row_sees_all_before_it_whatever_rows_are_made_of(tmp_path, way):
    store = write_documents(tmp_path / "tokens", [5, 9, 8, 3, 7, 11, 6, 4])
    rows = packed(store, 32, num_rows=2)
    if way == "mixed":
        rows = Mixed(rows, Windows(store, mix(8, num_rows=8)), 1e-9, 0)
    if way == "skipped":
        rows = Skipped(rows, 64, 0)
    model = build("llama", max_position_embeddings=64, vocab_size=9000)
    losses = []
    for row in map(rows.__getitem__, range(2)):
        assert row["input_ids"].tolist().count(0) > 1, "documents begin inside"
        with torch.no_grad():
            losses.append(
                model(
                    input_ids=row["input_ids"][None],
                    position_ids=row.get("positions", torch.arange(32))[None],
                    attention_mask=torch.ones(32, 32, dtype=torch.bool).tril()[None, None],
                    labels=row["labels"][None],
                    use_cache=False,
                ).loss.item()
            )
    install(model, geometry(model, ORIGINAL_LENGTH))
    settings = SETTINGS | {"num_steps": 1, "batch_size": 2}
    result = parallel_runs.training.train(
        model, rows, **node_settings.training(settings), work=tmp_path, micro_batch_size=2
    )
    assert result.log[0]["loss"] == pytest.approx(np.mean(losses), rel=REORDERED)


# Too little ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"packed": False, "batch_size": 1},
            "finetune.documents fill 0 rows of 40 tokens, fewer than one batch of 1; set "
            "finetune.pack_documents true, name longer ones, or lower finetune.text_length.",
        ),
        (
            {"packed": True, "batch_size": 3},
            "finetune.documents fill 2 rows of 40 tokens, fewer than one batch of 3; name more, or "
            "lower finetune.text_length.",
        ),
    ],
)
def test_documents_that_do_not_fill_a_batch_are_refused(tmp_path, changes, sentence):
    # 86 tokens with BOS and EOS
    store = write_documents(tmp_path / "tokens", [10, 20, 20, 10, 16])
    with pytest.raises(UserError, match=re.escape(sentence)):
        Chunks(store, TOKENIZER, mix(40, **changes))
    assert packed(store, 40, batch_size=2).num_available == 2


# The stage ----------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path):
    """Return a function that fine-tunes a tiny model on 20 documents of 30 tokens."""
    base, searched = tmp_path / "base", tmp_path / "search"
    model = build("llama", bos_token_id=0, eos_token_id=1, vocab_size=30000)
    model.save_pretrained(base)
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(base / "tokenizer.json"))
    searched.mkdir()
    RopeFactors(factors=(2.0,) * 8, original_length=32, target_length=128, method="longrope").save(
        searched / "factors.json"
    )
    write_documents(tmp_path / "tokens", [30] * 20)
    places = {"model": base, "tokenizer": base, "factors": searched}
    stores = {"tokens": tmp_path / "tokens", "short_tokens": tmp_path / "tokens"}
    inputs = {role: Input(path, role) for role, path in (places | stores).items()}

    def run(**changes):
        settings = SETTINGS | {"num_steps": 4, "text_length": 64, "passkey_fraction": 0.0}
        settings |= {"full_attention": False, "bos": "always"} | changes
        out = tmp_path / "out"
        out.mkdir()
        run_stage(settings, inputs, out)
        return (out / "log.jsonl").read_text().splitlines()

    run.inputs = inputs
    return run


def test_a_run_tells_how_many_rows_there_are_and_how_often_it_goes_through_them(stage, capsys):
    # 20 documents of 32 tokens with BOS and EOS are 10 rows of 64; the run takes 4 batches of 4
    assert len(stage(pack_documents=True)) == 4
    lines = [line for line in capsys.readouterr().err.splitlines() if "epochs" in line]
    assert lines == [
        "finetune: 16 rows of 64 tokens, of 10 that the documents fill: 1.60 epochs",
    ]


def test_with_mixed_windows_it_tells_the_same_of_windows(stage, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    stage(pack_documents=True, mixed_window={"short_fraction": 0.25})
    # a quarter of 16 rows, two windows each; a document fills a window
    assert (
        "finetune: 12 rows of 64 tokens, of 10 that the documents fill: 1.20 epochs; "
        "8 windows of 32 tokens, of 20 that the documents fill: 0.40 epochs\n"
    ) in capsys.readouterr().err


def test_of_several_processes_the_first_alone_tells_it(stage, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    factors = RopeFactors.read(stage.inputs["factors"].path / "factors.json")
    settings = SETTINGS | {"text_length": 32, "passkey_fraction": 0.0, "full_attention": False}
    settings |= {"bos": "always"}
    finetune._rows(node_settings.node_settings("finetune", settings), stage.inputs, factors)
    assert "epochs" not in capsys.readouterr().err


def test_too_little_data_is_refused_before_the_model_is_read(stage, monkeypatch):
    monkeypatch.setattr(finetune, "load_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(
        UserError, match=r"fill 0 rows of 64 tokens, .* finetune\.pack_documents true"
    ):
        stage()


# Settings -----------------------------------------------------------------------------------------


def test_packing_is_in_the_digest_and_its_absence_is_not(tmp_path):
    workflow_files.write_experiment(tmp_path)
    (plain,) = workflow_files.planned(tmp_path, pack_documents=False).of("finetune")
    (node,) = workflow_files.planned(tmp_path, pack_documents=True).of("finetune")
    before, after = (spec.settings.identity()["training"] for spec in (plain, node))
    assert "pack_documents" not in before
    assert after == before | {"pack_documents": True}


@pytest.mark.parametrize(
    "other",
    [
        {"mixed_window": {"short_fraction": 0.3}, "text_length": 256},
        {"position_skipping": True, "text_length": 128},
    ],
)
def test_packing_goes_with_mixed_windows_and_with_skipped_positions(tmp_path, other):
    workflow_files.write_experiment(tmp_path)
    (node,) = workflow_files.planned(tmp_path, pack_documents=True, **other).of("finetune")
    assert node.settings.training.pack_documents
