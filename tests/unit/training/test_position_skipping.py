"""Short rows at the positions of long ones."""

import node_settings
import numpy as np
import parallel_runs
import pytest
import torch
import workflow_files
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ORIGINAL_LENGTH, build
from tolerances import LOGITS, REORDERED

from longrope.errors import UserError
from longrope.models.loading import geometry
from longrope.models.rotary import RowPositions, install
from longrope.training.packed_attention import attention_within_segments
from longrope.training.rows import Skipped, skipping_positions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


@given(length=st.integers(2, 40), more=st.integers(0, 60), seed=st.integers(0, 2**32))
def test_positions_rise_from_0_below_the_target_length_with_at_most_one_jump(length, more, seed):
    positions = skipping_positions(length, length + more, np.random.default_rng(seed))
    assert positions[0] == 0
    assert positions[-1] < length + more
    steps = np.diff(positions)
    assert (steps >= 1).all()
    assert (steps > 1).sum() <= 1


@given(length=st.integers(2, 4), more=st.integers(0, 4))
def test_every_place_and_size_of_the_jump_is_drawn(length, more):
    drawn = {
        tuple(skipping_positions(length, length + more, np.random.default_rng(seed)))
        for seed in range(400)
    }
    expected = {
        (*range(place), *range(place + size, length + size))
        for place in range(1, length)
        for size in range(more + 1)
    }
    assert drawn == expected


def test_positions_depend_on_seed_and_place_alone():
    def positions(seed, order):
        rows = Skipped(parallel_runs.Rows(16, 20), 64, seed)
        return {index: rows[index]["positions"].tolist() for index in order}

    assert positions(0, range(20)) == positions(0, reversed(range(20)))
    assert positions(0, range(20)) != positions(1, range(20))
    assert len({tuple(row) for row in positions(0, range(20)).values()}) > 15


def test_a_row_across_a_jump_is_one_document_in_every_architecture(model):
    """Without the project's attention, at a batch of one, whose positions and full mask we give."""
    tokens = torch.randint(2, 97, (1, 40), generator=torch.Generator().manual_seed(2))
    positions = torch.cat([torch.arange(15), torch.arange(90, 115)])[None]
    seen = torch.ones(40, 40, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        expected = model(
            input_ids=tokens, position_ids=positions, attention_mask=seen, use_cache=False
        ).logits
        rotary = install(model, geometry(model, ORIGINAL_LENGTH))
        rotary.row_positions = RowPositions(positions, (0,))
        with attention_within_segments(rotary, model.config._attn_implementation):
            places = torch.arange(40)[None]
            logits = model(input_ids=tokens, position_ids=places, use_cache=False).logits
    torch.testing.assert_close(logits, expected, **LOGITS)


def test_a_row_is_trained_on_at_its_positions(tmp_path):
    rows = Skipped(parallel_runs.Rows(32, 4), 500, 0)
    model = build("llama", max_position_embeddings=512)
    with torch.no_grad():
        losses = [
            model(
                input_ids=row["input_ids"][None],
                position_ids=row["positions"][None],
                attention_mask=torch.ones(32, 32, dtype=torch.bool).tril()[None, None],
                labels=row["labels"][None],
                use_cache=False,
            ).loss.item()
            for row in map(rows.__getitem__, range(4))
        ]
    install(model, geometry(model, ORIGINAL_LENGTH))
    settings = parallel_runs.SETTINGS | {"num_steps": 1}
    result = parallel_runs.training.train(
        model, rows, **node_settings.training(settings), work=tmp_path, micro_batch_size=2
    )
    assert result.log[0]["loss"] == pytest.approx(np.mean(losses), rel=REORDERED)
    assert model.base_model.rotary_emb.row_positions is None, "whoever measures next is not misled"


# Settings -----------------------------------------------------------------------------------------


def test_skipping_is_in_the_digest_and_its_absence_is_not(tmp_path):
    workflow_files.write_experiment(tmp_path)
    target = workflow_files.settings()["extension"][0]["target_length"]
    (plain,) = workflow_files.planned(tmp_path, text_length=target // 2).of("finetune")
    (node,) = workflow_files.planned(tmp_path, text_length=target // 2, position_skipping=True).of(
        "finetune"
    )
    before, after = (spec.settings.identity()["training"] for spec in (plain, node))
    assert "position_skipping" not in before
    assert after == before | {"position_skipping": True}


def test_rows_of_the_target_length_have_nothing_to_skip_and_are_refused(tmp_path):
    workflow_files.write_experiment(tmp_path)
    with pytest.raises(UserError, match=r"set finetune\.text_length below it"):
        workflow_files.planned(tmp_path, position_skipping=True)
