"""Rows of short pieces under the original embedding, beside long rows under scaled factors."""

import copy

import numpy as np
import parallel_runs
import pytest
import torch
import workflow_files
from characters import character_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from mixed_rows import mix, write_documents
from tiny_models import ORIGINAL_LENGTH, build
from tolerances import LOGITS, REORDERED
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from longrope.errors import UserError
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import Geometry
from longrope.stages.readjust import or_pretrained
from longrope.training.packed_attention import Packed, attention_within_segments
from longrope.training.parallel import Layout, RowShards
from longrope.training.rows import Chunks, Mixed, Windows
from longrope.training.tiling import IGNORED

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


class Counted(torch.utils.data.Dataset):
    """Rows of one length that tell their place."""

    def __init__(self, length, first=0, num_rows=100):
        self.length, self.first, self.num_rows = length, first, num_rows

    def __len__(self):
        return self.num_rows

    def __getitem__(self, index):
        row = torch.full((self.length,), self.first + index)
        return {"input_ids": row, "labels": row}


class CountedWindows(Counted):
    """Windows of one length that tell their place, each of one piece."""

    def __getitem__(self, index):
        return super().__getitem__(index) | {"positions": torch.arange(self.length)}


def segments_of(row):
    """Return the tokens of each piece of a row."""
    begins = [place for place, position in enumerate(row["positions"].tolist()) if position == 0]
    ends = [*begins[1:], len(row["positions"])]
    return [row["input_ids"][begin:end].tolist() for begin, end in zip(begins, ends, strict=True)]


def factors_of(model, length=128):
    num_pairs = geometry(model, ORIGINAL_LENGTH).num_pairs
    return RopeFactors(
        factors=tuple(np.linspace(1.1, 2.0, num_pairs).tolist()),
        num_start_tokens=3,
        attention_scale=1.2,
        original_length=ORIGINAL_LENGTH,
        target_length=length,
        method="longrope",
    )


def logits(model, tokens):
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


# Attention and embedding --------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(32,) * 4, (40, 1, 5, 5, 5, 72)])
def test_every_piece_is_read_alone_by_the_pretrained_model_beside_a_long_row(model, lengths):
    tokens = torch.randint(2, 97, (2, 128), generator=torch.Generator().manual_seed(5))
    # transformers' own model, each piece in a call of its own
    alone = torch.cat([logits(model, piece[None]) for piece in tokens[0].split(lengths)], dim=1)
    rotary = install(model, geometry(model, ORIGINAL_LENGTH))
    rotary.use(factors_of(model))
    long = logits(model, tokens[1:])
    places = torch.arange(128).expand(2, -1)
    positions = torch.stack([torch.cat([torch.arange(length) for length in lengths]), places[1]])
    with attention_within_segments(rotary, model.config._attn_implementation):
        rotary.row_positions = Packed.of(positions, torch.tensor([72, 0]), places)
        row_logits = logits(model, tokens)
        rotary.row_positions = None
        again = logits(model, tokens[1:])
    torch.testing.assert_close(row_logits[:1], alone, **LOGITS)
    torch.testing.assert_close(row_logits[1:], long, **LOGITS)
    assert torch.equal(again, long), "without places the model is as it was"


def test_the_attention_of_the_process_is_as_before_after_training(llama):
    rotary = install(llama, geometry(llama, ORIGINAL_LENGTH))
    name = llama.config._attn_implementation
    before = ALL_ATTENTION_FUNCTIONS[name]
    with pytest.raises(KeyboardInterrupt), attention_within_segments(rotary, name):
        assert ALL_ATTENTION_FUNCTIONS[name] is not before
        raise KeyboardInterrupt
    assert ALL_ATTENTION_FUNCTIONS[name] is before


# Rows ---------------------------------------------------------------------------------------------


def test_a_row_of_pieces_begins_anew_at_each_and_predicts_nothing_across_them():
    mixed = Mixed(Counted(12), CountedWindows(4, first=1000, num_rows=300), 0.5, seed=0)
    rows = [mixed[index] for index in range(20)]
    number = next(i for i, row in enumerate(rows) if row["piece_length"])
    row = rows[number]
    first = 1000 + 3 * number
    assert row["input_ids"].tolist() == [first] * 4 + [first + 1] * 4 + [first + 2] * 4
    assert row["positions"].tolist() == [0, 1, 2, 3] * 3
    targets = RowShards(mixed, Layout())[number]["targets"].tolist()
    assert targets == [first] * 3 + [IGNORED] + [first + 1] * 3 + [IGNORED] + [first + 2] * 3 + [
        IGNORED
    ]


def test_a_long_row_between_them_is_as_it_was():
    mixed = Mixed(Counted(12), CountedWindows(4, num_rows=300), 0.5, seed=0)
    number = next(i for i in range(20) if not mixed[i]["piece_length"])
    assert mixed[number]["input_ids"].tolist() == [number] * 12
    assert mixed[number]["positions"].tolist() == list(range(12))


def test_rows_of_pieces_have_the_asked_share_whatever_was_read_before():
    mixed = Mixed(Counted(4), CountedWindows(4), 0.3, seed=7)
    lengths = [int(mixed[index]["piece_length"]) for index in range(100)]
    assert [int(mixed[index]["piece_length"]) for index in reversed(range(100))] == lengths[::-1]
    # six standard deviations of 100 draws
    assert lengths.count(4) / 100 == pytest.approx(0.3, abs=0.28)
    many = Mixed(Counted(4), CountedWindows(4), 0.3, seed=8)
    assert [int(many[index]["piece_length"]) for index in range(100)] != lengths


@given(size=st.sampled_from([1, 2, 3, 6]), window=st.sampled_from([2, 4, 12]))
def test_processes_that_share_a_row_of_pieces_hold_all_of_it_once(size, window):
    mixed = Mixed(Counted(12), CountedWindows(window, num_rows=600), 0.999, seed=0)
    shares = [RowShards(mixed, Layout(size, rank, size, 3))[0] for rank in range(size)]
    whole = RowShards(mixed, Layout())[0]
    for name in ("input_ids", "targets", "position_ids"):
        assert torch.cat([share[name] for share in shares]).equal(whole[name]), name
    for share in shares:
        assert share["positions"].equal(whole["positions"])
        assert int(share["piece_length"]) == window
    packed = [Packed.of(*batch_of(share)) for share in shares]
    assert torch.cat([shard.positions for shard in packed], dim=1)[0].equal(whole["positions"])
    assert {shard.lengths for shard in packed} == {((window,) * (12 // window),)}


def batch_of(share):
    """Return what `Packed` is made of, of one row."""
    return [share[name][None] for name in ("positions", "piece_length", "position_ids")]


# Short documents ----------------------------------------------------------------------------------


def test_short_documents_stand_one_after_the_other_between_bos_and_eos(tmp_path):
    # with BOS and EOS 5, 11 and 16 tokens: two windows of 16
    windows = Windows(write_documents(tmp_path / "tokens", [3, 9, 14]), mix(num_rows=2))
    segments = sorted(segments_of(windows[index]) for index in range(2))
    assert segments == [
        [[0, *range(1000, 1003), 1], [0, *range(2000, 2009), 1]],
        [[0, *range(3000, 3014), 1]],
    ]


def test_a_short_document_that_is_cut_goes_on_in_the_next_window_as_a_piece_of_its_own(tmp_path):
    windows = Windows(write_documents(tmp_path / "tokens", [10, 12, 5]), mix(num_rows=2))
    segments = sorted(segments_of(windows[index]) for index in range(2))
    assert segments == [
        [[0, *range(1000, 1010), 1], [0, 2000, 2001, 2002]],
        # the last two tokens of 34 fill no window
        [[0, *range(2003, 2012), 1], [0, *range(3000, 3004)]],
    ]


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), seed=st.integers(0, 3))
def test_a_piece_is_of_one_document_and_an_epoch_has_every_short_one_once(
    tmp_path_factory, lengths, seed
):
    store = write_documents(tmp_path_factory.mktemp("any") / "tokens", [*lengths, 14])
    windows = Windows(store, mix(seed=seed))
    short = sum(length + 2 for length in lengths if length < 14)
    epoch = [windows[index] for index in range(windows.num_available)]
    assert all(len(row["input_ids"]) == 16 for row in epoch)
    segments = [
        [token for token in piece if token > 1] for row in epoch for piece in segments_of(row)
    ]
    assert all(np.diff(piece).tolist() == [1] * (len(piece) - 1) for piece in segments)
    tokens = [token for piece in segments for token in piece]
    assert len(set(tokens)) == len(tokens)
    of_short = [token for token in tokens if lengths_of(lengths, token) < 14]
    # less than one window of the stream is left out
    assert short - 16 < len(of_short) + 2 * sum(length < 14 for length in lengths) <= short
    assert all(piece[0] == 0 for row in epoch for piece in segments_of(row))


def lengths_of(lengths, token):
    """Return the length of the document that a token is of."""
    return [0, *lengths, 14][token // 1000]


def test_no_token_predicts_one_of_another_document(tmp_path):
    windows = Windows(write_documents(tmp_path / "tokens", [3, 9, 10, 12, 5]), mix())
    mixed = Mixed(Counted(48), windows, 0.999, seed=0)
    row = RowShards(mixed, Layout())[0]
    expected = [target for piece in segments_of(row) for target in [*piece[1:], IGNORED]]
    assert row["targets"].tolist() == expected
    assert len(segments_of(row)) > 3


def test_windows_of_long_documents_are_the_chunks_that_long_rows_are(tmp_path):
    store = write_documents(tmp_path / "tokens", [70, 14, 33])
    chunks = Chunks(store, character_tokenizer(), mix())
    windows = Windows(store, mix())
    for index in range(20):
        assert torch.equal(windows[index]["input_ids"], chunks[index]["input_ids"])
        assert windows[index]["positions"].tolist() == list(range(16))


def test_the_order_of_windows_depends_on_the_seed_and_on_nothing_read_before(tmp_path):
    store = write_documents(tmp_path / "tokens", [3, 9, 20, 10, 12, 5, 40])
    windows, again, other = (Windows(store, mix(seed=seed)) for seed in (0, 0, 1))
    rows = [windows[index]["input_ids"].tolist() for index in range(20)]
    assert [again[index]["input_ids"].tolist() for index in reversed(range(20))] == rows[::-1]
    assert [other[index]["input_ids"].tolist() for index in range(20)] != rows


def test_documents_that_fill_no_window_together_are_refused(tmp_path):
    store = write_documents(tmp_path / "tokens", [5, 6])
    with pytest.raises(UserError, match=r"have 11 tokens, too few for one window of 16; name more"):
        Windows(store, mix())


# Training -----------------------------------------------------------------------------------------


def losses(tmp_path, **changes):
    case = parallel_runs.case(
        tmp_path / "-".join(map(str, changes.values())), mixed=True, **changes
    )
    return [entry["loss"] for entry in parallel_runs.compute(case)["log"]]


def test_losses_do_not_depend_on_which_rows_share_a_forward_pass(tmp_path):
    expected = losses(tmp_path, micro_batch_size=1)
    for more in ({"micro_batch_size": 4}, {"micro_batch_size": 2, "tile_length": 10}):
        assert losses(tmp_path, **more) == pytest.approx(expected, rel=REORDERED)


def test_the_loss_of_a_step_is_the_mean_of_its_rows_under_their_own_embeddings(tmp_path):
    case = parallel_runs.case(tmp_path, mixed=True, num_steps=1, micro_batch_size=2)
    (entry,) = parallel_runs.compute(case)["log"]
    model = build("llama", max_position_embeddings=64)
    rows = parallel_runs.rows_of(case)
    scaled = copy.deepcopy(model)
    install(scaled, geometry(scaled, 32)).use(parallel_runs.FACTORS)
    total = 0.0
    for row in (rows[index] for index in range(4)):
        chosen = model if row["piece_length"] else scaled
        for piece in map(torch.tensor, segments_of(row)):
            # a piece of one token has no next one
            if len(piece) > 1:
                loss = chosen(input_ids=piece[None], labels=piece[None], use_cache=False).loss
                total += loss.item() * (len(piece) - 1)
    counts = [len(segments_of(rows[index])) for index in range(4)]
    assert {1, 4} <= set(counts), "long rows, and windows of one piece and of three"
    assert entry["loss"] == pytest.approx(total / (4 * 63), rel=REORDERED)


# Readjustment -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pretrained", "taken"), [(9.0, True), (10.0, True), (11.0, False)])
def test_within_the_window_the_pretrained_embedding_is_taken_where_it_is_as_good(pretrained, taken):
    class TwoPerplexities:
        def perplexities(self, candidates):
            unscaled = [set(candidate.factors) == {1.0} for candidate in candidates]
            assert [candidate.attention_scale for candidate in candidates if unscaled] == [1.2, 1.0]
            return [pretrained if plain else 10.0 for plain in unscaled]

    searched = parallel_runs.FACTORS.model_copy(
        update={"target_length": 32, "attention_scale": 1.2, "provenance": {"seed": 3}}
    )
    shape = Geometry(num_pairs=8, rope_theta=1e4, original_length=32)
    factors = or_pretrained(searched, shape, TwoPerplexities())
    if not taken:
        assert factors == searched
        return
    assert factors.identity() == {
        "factors": [1.0] * 8,
        "num_start_tokens": 0,
        "attention_scale": 1.0,
    }
    assert factors.provenance == {"seed": 3, "perplexity": pretrained}
    assert (factors.method, factors.target_length) == ("longrope", 32)


# Settings -----------------------------------------------------------------------------------------


def test_mixed_windows_are_in_the_digest_and_their_absence_is_not(tmp_path):
    workflow_files.write_experiment(tmp_path)
    (plain,) = workflow_files.planned(tmp_path).of("finetune")
    assert "mixed_window" not in plain.settings.identity()["training"]
    assert "short_tokens" not in plain.inputs
    for fraction in (0.3, 0.5):
        (node,) = workflow_files.planned(tmp_path, mixed_window={"short_fraction": fraction}).of(
            "finetune"
        )
        assert node.settings.identity()["training"]["mixed_window"] == {"short_fraction": fraction}
        assert node.inputs["short_tokens"] is node.inputs["tokens"]
        assert node.digest != plain.digest


def test_pieces_may_come_from_documents_of_their_own(tmp_path):
    workflow_files.write_experiment(tmp_path)
    ref = workflow_files.settings()["search"]["documents"]
    mixed = {"short_fraction": 0.3, "documents": ref}
    (node,) = workflow_files.planned(tmp_path, mixed_window=mixed).of("finetune")
    assert node.inputs["short_tokens"] is not node.inputs["tokens"]
    mixed["documents"] = ref | {"corpus": "elsewhere"}
    with pytest.raises(UserError, match=r"mixed_window\.documents: corpus 'elsewhere'"):
        workflow_files.planned(tmp_path, mixed_window=mixed)


def test_rows_that_cannot_be_cut_into_pieces_are_refused_before_anything_is_planned(tmp_path):
    workflow_files.write_experiment(tmp_path)
    with pytest.raises(UserError, match="must divide the 100 tokens of a row"):
        workflow_files.planned(tmp_path, mixed_window={"short_fraction": 0.3}, text_length=100)
