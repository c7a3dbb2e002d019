"""Training rows and the Trainer around them; resuming is compared bit for bit."""

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from node_settings import training
from repository import HELPERS
from safetensors.torch import load_file
from small_trainings import SETTINGS, TOKENIZER, mix, run_stage, trained, write_tokens
from tiny_models import build
from tolerances import REORDERED

from longrope.data.prompts import QUESTION
from longrope.data.token_store import TokenStore
from longrope.errors import UserError
from longrope.rope.factors import RopeFactors
from longrope.training import rows as training_data
from longrope.training.rows import Chunks
from longrope.training.trainer import last_checkpoint, train

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torch")


@pytest.fixture
def tokens(tmp_path):
    return write_tokens(tmp_path / "tokens")


def rows_of(tokens, **changes):
    chunks = Chunks(TokenStore(tokens), TOKENIZER, mix(**changes))
    return [chunks[index]["input_ids"].tolist() for index in range(len(chunks))]


def test_every_text_row_stands_between_bos_and_eos(tokens):
    for row in rows_of(tokens):
        assert len(row) == 64
        assert (row[0], row[-1]) == (0, 1)
        assert not {0, 1} & set(row[1:-1])


def test_an_epoch_holds_every_whole_chunk_once_and_no_document_too_short(tokens):
    # 62 tokens fit between BOS and EOS: 400 // 62 = 6 chunks of a, 270 // 62 = 4 of c
    bodies = [tuple(row[1:-1]) for row in rows_of(tokens, num_rows=20)]
    flat = np.arange(700) % 90 + 2
    expected = {tuple(flat[b : b + 62]) for b in [*range(0, 340, 62), *range(430, 630, 62)]}
    assert set(bodies[:10]) == set(bodies[10:]) == expected
    assert len(set(bodies[:10])) == 10


def test_the_order_depends_on_the_seed_alone(tokens):
    assert rows_of(tokens) == rows_of(tokens)
    assert rows_of(tokens) != rows_of(tokens, seed=1)
    assert rows_of(tokens, num_rows=8) == rows_of(tokens)[:8]


def test_passkey_rows_have_the_asked_share_and_end_with_the_key(tokens):
    rows = rows_of(tokens, passkey_fraction=0.5, num_rows=400, text_length=300, seed=2)
    question = TOKENIZER.encode(QUESTION).ids
    prompts = [row for row in rows if row[-6 - len(question) : -6] == question]
    assert len(prompts) / 400 == pytest.approx(0.5, abs=0.08)
    answer = prompts[0][-5:]
    places = [i for i in range(300) if prompts[0][i : i + 5] == answer]
    assert len(places) == 3, "the key stands twice in the needle and once in the answer"


def test_passkey_rows_hide_the_key_at_both_ends_too(tokens, monkeypatch):
    depths = []
    real = training_data.build_prompt

    def watched(*arguments, **named):
        depths.append(named["depth"])
        return real(*arguments, **named)

    monkeypatch.setattr(training_data, "build_prompt", watched)
    rows_of(tokens, passkey_fraction=1.0, num_rows=300, text_length=300)
    assert all(0 <= depth <= 1 for depth in depths)
    # a twelfth of the draws lies beyond either end and is moved to it
    for end in (0.0, 1.0):
        assert depths.count(end) / 300 == pytest.approx(1 / 12, abs=0.05)


def test_a_corpus_without_documents_long_enough_is_refused(tokens):
    with pytest.raises(UserError, match="fill 0 rows of 2048 tokens"):
        rows_of(tokens, text_length=2048)


def test_a_micro_batch_that_does_not_divide_the_batch_is_refused(tokens, tmp_path):
    rows = Chunks(TokenStore(tokens), TOKENIZER, mix())
    with pytest.raises(UserError, match="micro_batch_size 3 times 1 devices must divide"):
        train(build("llama"), rows, **training(SETTINGS), work=tmp_path / "w", micro_batch_size=3)


def test_training_lowers_the_loss_and_logs_every_step(tokens, tmp_path):
    _, log = trained(tokens, tmp_path / "work")
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["loss"] < log[0]["loss"]
    # linear: two steps of warm-up, then down to the last of six steps
    rates = [entry["learning_rate"] for entry in log]
    assert rates == pytest.approx([0.0, 0.005, 0.01, 0.0075, 0.005, 0.0025])


def test_a_smaller_micro_batch_gives_the_same_losses(tokens, tmp_path):
    _, whole = trained(tokens, tmp_path / "whole", micro_batch_size=4)
    _, split = trained(tokens, tmp_path / "split", micro_batch_size=2)
    for expected, other in zip(whole, split, strict=True):
        assert expected["loss"] == pytest.approx(other["loss"], rel=REORDERED)


def test_a_half_written_checkpoint_is_removed_and_the_one_before_is_used(tmp_path):
    for step, text in ((2, '{"global_step": 2}'), (4, '{"global_st')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-6").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert not (tmp_path / "checkpoint-4").exists() and not (tmp_path / "checkpoint-6").exists()


KILLED = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    import killing
    import small_trainings

    killing.end_at(0, 5, killing.kill)
    small_trainings.trained(Path({tokens!r}), Path({work!r}))
"""


def test_training_killed_in_the_middle_resumes_to_the_same_weights(tokens, tmp_path):
    work = tmp_path / "killed"
    script = KILLED.format(tests=str(HELPERS), tokens=str(tokens), work=str(work))
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert last_checkpoint(work / "_checkpoints") == str(work / "_checkpoints" / "checkpoint-4")
    resumed, log = trained(tokens, work)
    whole, expected = trained(tokens, tmp_path / "whole")
    assert [entry["loss"] for entry in log] == [entry["loss"] for entry in expected]
    for (name, weight), other in zip(
        resumed.state_dict().items(), whole.state_dict().values(), strict=True
    ):
        assert torch.equal(weight, other), name


def test_a_tuned_model_is_written_with_its_factors_and_plain_rope(tokens, tmp_path):
    from tokenizers import Tokenizer, models

    from longrope.runtime import Input

    base = tmp_path / "base"
    model = build("llama", bos_token_id=0, eos_token_id=1)
    model.save_pretrained(base)
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(base / "tokenizer.json"))
    factors = RopeFactors(
        factors=(2.0,) * 8, original_length=64, target_length=128, method="longrope"
    )
    (tmp_path / "search").mkdir()
    factors.save(tmp_path / "search" / "factors.json")
    settings = SETTINGS | {
        "num_steps": 3,
        "text_length": 64,
        "passkey_fraction": 0.0,
        "full_attention": False,
        "bos": "auto",
    }
    places = {"model": base, "tokenizer": base, "factors": tmp_path / "search", "tokens": tokens}
    inputs = {role: Input(path, role) for role, path in places.items()}
    out = tmp_path / "out"
    out.mkdir()
    run_stage(settings, inputs, out)
    assert RopeFactors.read(out / "factors.json") == factors
    measured = [json.loads(line) for line in (out / "measured.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in measured] == [1, 2, 3]
    assert all(entry["tokens_per_second"] > 0 < entry["resident_memory_mb"] for entry in measured)
    for name in ("log", "measured"):
        assert (out / f"{name}.jsonl").read_bytes() == (out / f"_{name}.jsonl").read_bytes()
    written = load_file(out / "model" / "model.safetensors")
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["rope_parameters"]["rope_type"] == "default"
    before = model.state_dict()
    assert written.keys() == before.keys()
    assert any(not torch.equal(written[name], before[name]) for name in written)
