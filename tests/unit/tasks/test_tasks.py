"""Perplexity and passkey tasks on tiny random models, against transformers' own forward pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from node_settings import node_settings
from tiny_models import ORIGINAL_LENGTH, build
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tolerances import REORDERED

from longrope.data.token_store import TokenStore
from longrope.errors import UserError
from longrope.models.evaluated_model import EvaluatedModel
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.models.score_context import score_memory
from longrope.rope.factors import FactorTable
from longrope.rope.methods import closed_form
from longrope.runtime import Input, Runtime
from longrope.search.objective import Objective, stretch
from longrope.search.workers.pools import InProcess
from longrope.search.workers.units import Score
from longrope.tasks import passkey, perplexity


@given(st.integers(2, 300), st.integers(3, 80), st.integers(1, 300), st.integers(0, 2))
def test_rolling_windows_score_every_token_once_that_something_stands_before(
    num_tokens, length, stride, num_begin
):
    windows = list(
        perplexity.rolling_windows(
            num_tokens, window_length=length, stride=stride, num_begin=num_begin
        )
    )
    targets = [i for w in windows for i in range(w.end - w.num_scored, w.end)]
    assert targets == list(range(0 if num_begin else 1, num_tokens))
    for window in windows:
        size = window.end - window.begin
        assert num_begin + size <= length
        assert 0 < window.num_scored <= size - (0 if num_begin else 1)
        assert window is windows[0] or window.num_scored <= stride


def test_rolling_windows_have_their_hand_computed_places():
    windows = list(perplexity.rolling_windows(10, window_length=6, stride=3))
    assert [(w.begin, w.end, w.num_scored) for w in windows] == [(0, 6, 5), (3, 9, 3), (4, 10, 1)]


def test_a_window_without_room_for_a_token_to_score_is_refused():
    with pytest.raises(UserError, match="windows of 1 tokens have none to score"):
        next(perplexity.rolling_windows(10, window_length=1, stride=1, num_begin=1))


@pytest.fixture
def store(tmp_path):
    """A token store of three documents with 300, 150 and 90 tokens."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    lengths = [300, 150, 90]
    tokens = np.random.default_rng(0).integers(0, 97, sum(lengths)).astype(np.uint16)
    (folder / "tokens.bin").write_bytes(tokens.tobytes())
    np.save(folder / "offsets.npy", np.cumsum([0, *lengths]))
    meta = {"dtype": "uint16", "names": ["a", "b", "c"], "num_tokens": sum(lengths)}
    (folder / "tokens.json").write_text(json.dumps(meta))
    return folder


def evaluated_model(method="yarn", table=None, begin=()):
    model = build("llama")
    shape = geometry(model, ORIGINAL_LENGTH)
    return EvaluatedModel(model=model, geometry=shape, method=method, table=table, begin=begin)


def inputs(store):
    return {
        "model": Input(Path("none"), "model"),
        "tokenizer": Input(store, "tokenizer"),
        "tokens-text": Input(store, "tokens"),
    }


def settings(**changes):
    given = {"lengths": {"text": [64, 128]}, "num_documents": {"text": 2}, "dtype": "float32"}
    return node_settings("evaluate", {"task": "perplexity", **given, **changes})


def runtime(tmp_path):
    return Runtime(tmp_path / "store", tmp_path)


def reference(evaluated_model, tokens, length):
    """Sum of losses by transformers' own forward pass, under the factors of a length."""
    install(evaluated_model.model, evaluated_model.geometry).use(evaluated_model.factors_at(length))
    batch = torch.from_numpy(tokens)[None]
    with torch.no_grad():
        return float(evaluated_model.model(batch, labels=batch).loss) * (len(tokens) - 1)


def flat(store):
    return np.fromfile(store / "tokens.bin", dtype=np.uint16).astype(np.int64)


@pytest.mark.parametrize("method", ["none", "linear", "yarn"])
def test_window_losses_are_those_of_one_forward_pass(method, store, tmp_path):
    probe = evaluated_model(method)
    rows = perplexity.evaluate(probe, settings(), inputs(store), runtime(tmp_path))
    for row in rows:
        first = row["documents"][0]
        expected = reference(probe, flat(store)[: row["length"]], row["length"])
        assert first["nll"] == pytest.approx(expected, rel=REORDERED)
        assert first["tokens"] == row["length"] - 1


def test_skipped_tokens_move_the_window(store, tmp_path):
    probe = evaluated_model()
    changed = settings(skip_tokens=20, num_documents={"text": 1})
    row = perplexity.evaluate(probe, changed, inputs(store), runtime(tmp_path))[1]
    expected = reference(probe, flat(store)[20:148], 128)
    assert row["documents"][0]["nll"] == pytest.approx(expected, rel=REORDERED)


def test_sliding_losses_are_those_of_each_window(store, tmp_path):
    probe = evaluated_model()
    changed = settings(
        protocol="sliding",
        stride=32,
        max_tokens=100,
        lengths={"text": [64]},
        num_documents={"text": 1},
    )
    row = perplexity.evaluate(probe, changed, inputs(store), runtime(tmp_path))[0]
    install(probe.model, probe.geometry).use(probe.factors_at(64))
    total = 0.0
    for begin, end, num_new in [(0, 64, 63), (32, 96, 32), (36, 100, 4)]:
        tokens = torch.from_numpy(flat(store)[begin:end])[None]
        with torch.no_grad():
            logits = probe.model(tokens).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="none")
        total += float(losses[-num_new:].sum())
    assert row["documents"][0]["nll"] == pytest.approx(total, rel=REORDERED)
    assert row["documents"][0]["tokens"] == 99


def separate_loop(probe, tokens, length, stride):
    """Return sum and number of losses, one forward pass of transformers for each window of a document.

    Every window is as long as it can be, with what it begins with, and ends where the next one begins to be
    scored.
    """
    install(probe.model, probe.geometry).use(probe.factors_at(length))
    begin, losses, done = list(probe.begin), [], 0 if probe.begin else 1
    while done < len(tokens):
        most = length - len(begin) if not losses else stride
        end = min(len(tokens), done + min(most, length - max(1, len(begin))))
        row = torch.tensor([[*begin, *tokens[max(0, end - length + len(begin)) : end]]])
        with torch.no_grad():
            logits = probe.model(row).logits[0, :-1]
        nlls = torch.nn.functional.cross_entropy(logits, row[0, 1:], reduction="none")
        losses += nlls[len(nlls) - (end - done) :].tolist()
        done = end
    return sum(losses), len(losses)


@pytest.mark.parametrize("begin", [(), (7,), (7, 9)])
@pytest.mark.parametrize(("length", "stride"), [(64, 16), (64, 63), (64, 64), (64, 256), (100, 1)])
def test_sliding_losses_are_those_of_a_separate_loop_whatever_the_stride(
    begin, length, stride, store, tmp_path
):
    probe = evaluated_model(begin=begin)
    changed = settings(
        protocol="sliding", stride=stride, max_tokens=150, lengths={"text": [length]}
    )
    (row,) = perplexity.evaluate(probe, changed, inputs(store), runtime(tmp_path))
    assert [document["name"] for document in row["documents"]] == ["a", "b"]
    for document, first in zip(row["documents"], (0, 300), strict=True):
        expected, count = separate_loop(probe, flat(store)[first : first + 150], length, stride)
        assert document["tokens"] == count == (150 if begin else 149)
        assert document["nll"] == pytest.approx(expected, rel=REORDERED)


@pytest.mark.parametrize("begin", [(7,), (7, 9)])
def test_a_window_with_bos_keeps_that_many_tokens_of_text_less(begin, store, tmp_path):
    probe = evaluated_model(begin=begin)
    rows = perplexity.evaluate(probe, settings(), inputs(store), runtime(tmp_path))
    for row in rows:
        text = flat(store)[: row["length"] - len(begin)]
        expected, count = separate_loop(probe, text, row["length"], row["length"])
        assert row["documents"][0]["tokens"] == count == row["length"] - len(begin)
        assert row["documents"][0]["nll"] == pytest.approx(expected, rel=REORDERED)


def test_scores_behind_bos_and_without_it_are_remembered_apart(store, tmp_path):
    def nlls(begin):
        rows = perplexity.evaluate(
            evaluated_model(begin=begin), settings(), inputs(store), runtime(tmp_path)
        )
        return [document["nll"] for row in rows for document in row["documents"]]

    assert nlls((7,)) != nlls(()) != nlls((8,)) != nlls((7,))


def test_what_a_search_scored_is_not_scored_again(store, tmp_path, monkeypatch):
    """Sum and number of a whole window stand under one key, whoever asks."""
    probe = evaluated_model(begin=(7,))
    memory = score_memory(
        inputs(store)["model"],
        inputs(store)["tokens-text"],
        "float32",
        runtime(tmp_path),
        begin=probe.begin,
    )
    text = stretch(TokenStore(store), 0, 0, 63, probe.begin)
    pool = InProcess(FakeWorker())
    objective = Objective(pool, memory, [text])
    objective.scores([objective.unit(probe.factors_at(64), 0)])
    monkeypatch.setattr(perplexity, "token_nlls", lambda *_, **__: pytest.fail("scored again"))
    changed = settings(lengths={"text": [64]}, num_documents={"text": 1})
    (row,) = perplexity.evaluate(probe, changed, inputs(store), runtime(tmp_path))
    assert row["documents"] == [{"name": "a", "nll": 5.5, "tokens": 63}]


class FakeWorker:
    """Knows the loss of everything."""

    def score(self, unit):
        return Score(5.5, unit.text.num_scored)


def test_shorter_lengths_are_filled_up_with_shorter_documents(store, tmp_path):
    rows = perplexity.evaluate(evaluated_model(), settings(), inputs(store), runtime(tmp_path))
    names = {row["length"]: [d["name"] for d in row["documents"]] for row in rows}
    assert names == {64: ["a", "b"], 128: ["a", "b"]}
    more = settings(num_documents={"text": 3})
    rows = perplexity.evaluate(evaluated_model(), more, inputs(store), runtime(tmp_path))
    names = {row["length"]: [d["name"] for d in row["documents"]] for row in rows}
    assert names == {64: ["a", "b", "c"], 128: ["a", "b"]}


def test_a_corpus_without_documents_long_enough_is_refused_by_name(store, tmp_path):
    changed = settings(lengths={"text": [4096]})
    with pytest.raises(UserError, match="corpus text: no document has 4096 tokens"):
        perplexity.evaluate(evaluated_model(), changed, inputs(store), runtime(tmp_path))


def test_what_was_scored_once_is_remembered(store, tmp_path, monkeypatch):
    first = perplexity.evaluate(evaluated_model(), settings(), inputs(store), runtime(tmp_path))

    def refuse(*arguments, **named):
        raise AssertionError("scored again")

    monkeypatch.setattr(perplexity, "token_nlls", refuse)
    assert (
        perplexity.evaluate(evaluated_model(), settings(), inputs(store), runtime(tmp_path))
        == first
    )


def test_adding_a_length_scores_only_that_length(store, tmp_path, monkeypatch):
    perplexity.evaluate(evaluated_model(), settings(), inputs(store), runtime(tmp_path))
    lengths = []
    real = perplexity.token_nlls

    def watched(model, tokens, **named):
        lengths.append(len(tokens))
        return real(model, tokens, **named)

    monkeypatch.setattr(perplexity, "token_nlls", watched)
    more = settings(lengths={"text": [64, 100, 128]})
    perplexity.evaluate(evaluated_model(), more, inputs(store), runtime(tmp_path))
    assert lengths == [100, 100]


def test_a_table_gives_each_length_its_own_factors():
    shape = evaluated_model().geometry
    entries = tuple(closed_form("yarn", shape, length) for length in (64, 128))
    chosen = evaluated_model("longrope", FactorTable(entries=entries))
    assert chosen.factors_at(64) == entries[0]
    assert chosen.factors_at(65) == chosen.factors_at(500) == entries[1]


def byte_tokenizer(folder):
    """97 bytes are enough for the prompt's wording; whoever is missing becomes token 0."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    characters = [c for c in letters if c.isalnum() or c in ".?,ĠĊ"][:90]
    vocabulary = {"<unk>": 0} | {letter: index + 1 for index, letter in enumerate(characters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))


def passkey_settings(**changes):
    given = {"lengths": [400], "num_depths": 2, "num_trials": 2, "dtype": "float32"}
    return node_settings("evaluate", {"task": "passkey", **given, **changes})


def test_a_passkey_counts_exactly_when_greedy_generation_writes_it(store, tmp_path, monkeypatch):
    byte_tokenizer(store)
    probe = evaluated_model("none")
    prompts = []
    real = passkey.greedy_matches

    def watched(model, tokens, **named):
        prompts.append((tokens, named["num_last"], real(model, tokens, **named)))
        return prompts[-1][2]

    monkeypatch.setattr(passkey, "greedy_matches", watched)
    rows = passkey.evaluate(probe, passkey_settings(), inputs(store), runtime(tmp_path))
    assert [(r["length"], r["depth"], r["trials"]) for r in rows] == [(400, 0.0, 2), (400, 1.0, 2)]
    install(probe.model, probe.geometry).use(probe.factors_at(400))
    right = 0
    for tokens, count, _ in prompts:
        context = tokens[:-count]
        for _ in range(count):
            with torch.no_grad():
                following = probe.model(context[None]).logits[0, -1].argmax()
            context = torch.cat([context, following[None]])
        right += bool((context[-count:] == tokens[-count:]).all())
    assert sum(r["correct"] for r in rows) == right


def test_a_prompt_behind_bos_has_the_length_that_was_asked_for(store, tmp_path, monkeypatch):
    byte_tokenizer(store)
    seen = []

    def spied(model, tokens, *, num_last, **_):
        seen.append((len(tokens), tokens[:2].tolist()))
        return np.ones(num_last, bool)

    monkeypatch.setattr(passkey, "greedy_matches", spied)
    probe = evaluated_model(begin=(7, 9))
    passkey.evaluate(probe, passkey_settings(), inputs(store), runtime(tmp_path))
    assert seen == [(400, [7, 9])] * 4


def test_a_model_that_copies_the_key_gets_every_trial_right(store, tmp_path, monkeypatch):
    byte_tokenizer(store)
    monkeypatch.setattr(
        passkey, "greedy_matches", lambda *_, num_last, **__: np.ones(num_last, bool)
    )
    rows = passkey.evaluate(evaluated_model(), passkey_settings(), inputs(store), runtime(tmp_path))
    assert [row["correct"] for row in rows] == [2, 2]


def test_one_wrong_digit_is_a_wrong_answer(store, tmp_path, monkeypatch):
    byte_tokenizer(store)
    monkeypatch.setattr(
        passkey, "greedy_matches", lambda *_, num_last, **__: np.arange(num_last) > 0
    )
    rows = passkey.evaluate(evaluated_model(), passkey_settings(), inputs(store), runtime(tmp_path))
    assert [row["correct"] for row in rows] == [0, 0]


def test_a_passkey_length_too_short_for_its_prompt_is_refused(store, tmp_path):
    byte_tokenizer(store)
    with pytest.raises(UserError, match="passkey length 50 is too short"):
        passkey.evaluate(
            evaluated_model(), passkey_settings(lengths=[50]), inputs(store), runtime(tmp_path)
        )


def test_fewer_documents_than_asked_for_are_said(store, tmp_path, caplog):
    asked = settings(lengths={"text": [200]}, num_documents={"text": 5})
    (row,) = perplexity.evaluate(evaluated_model(), asked, inputs(store), runtime(tmp_path))
    assert len(row["documents"]) == 1
    assert caplog.messages == [
        "perplexity documents of corpus text: 5 asked for; 1 have 200 tokens"
    ]
    caplog.clear()
    enough = settings(lengths={"text": [200]}, num_documents={"text": 1})
    perplexity.evaluate(evaluated_model(), enough, inputs(store), runtime(tmp_path))
    assert caplog.messages == []
