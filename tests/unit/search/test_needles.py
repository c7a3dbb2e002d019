"""Needle-driven perplexity, and both stages of a search under all of LongRoPE2's ingredients."""

import json

import numpy as np
import pytest
import torch
from characters import WRITTEN, character_tokenizer
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from node_settings import node_settings
from repository import ROOT
from searches import SEED, SMALL
from tolerances import REORDERED

from longrope.data import prompts
from longrope.data.documents import NamedText
from longrope.data.token_store import TokenStore, write_store
from longrope.errors import UserError
from longrope.models.loading import geometry
from longrope.models.rotary import install
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import closed_form
from longrope.runtime import Input, Runtime
from longrope.search.needles import plant
from longrope.search.objective import Objective, draw_texts
from longrope.search.workers.pools import InProcess
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Text
from longrope.stages import readjust, search
from longrope.store.score_memory import ScoreMemory

ALL_OF_LONGROPE2 = {
    "algorithm": "evolution",
    "objective": "needle",
    "critical_dimension": "search",
    "max_factor_ratio": 2.0,
    "attention_scales": {"low": 1.0, "high": 1.5, "step": 1e-4},
}


@pytest.fixture
def tokenizer(tmp_path):
    """A model folder whose tokenizer has a token a character."""
    folder = tmp_path / "characters"
    folder.mkdir()
    character_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def stretches(count, length=400):
    """Return stretches of tildes."""
    filler = np.full(length, WRITTEN.index("~"), dtype=np.int64)
    return [Text(filler, {"document": index, "begin": 0, "end": length}) for index in range(count)]


def written(tokens):
    """Return the characters of tokens."""
    return "".join(WRITTEN[token] for token in tokens)


def test_a_needle_is_a_prompt_of_the_stretchs_length_in_its_own_text(tokenizer):
    for text in plant(stretches(4), tokenizer, seed=0):
        number = text.key["number"]
        assert len(text.tokens) == 400 and 1_000_000 <= number < 10_000_000
        read = written(text.tokens)
        assert read.startswith(prompts.INTRODUCTION)
        assert read.endswith(f"{prompts.QUESTION} {number}")
        before, after = read.split(prompts.NEEDLE.format(key=number))
        filler = [part.count("~") for part in (before, after)]
        assert filler[0] == round(text.key["depth"] * sum(filler))


def test_only_the_tokens_of_the_answer_count(tokenizer):
    (text,) = plant(stretches(1), tokenizer, seed=0)
    # a space and 7 digits
    assert text.num_scored == 8
    assert written(text.tokens[text.scored_from :]) == f" {text.key['number']}"


@given(count=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
@effort(max_examples=20)
def test_depths_are_one_of_each_equal_part(count, seed):
    texts = plant(stretches(count), ROOT / "resources/tiny-llama", seed=seed)
    # a depth is rounded to 6 decimals, perhaps up to the next part
    parts = [int((text.key["depth"] - 1e-6) * count) for text in texts]
    assert sorted(parts) == list(range(count))
    assert len({text.key["number"] for text in texts}) == count


def test_all_that_decides_a_needle_is_in_what_its_score_is_remembered_under(tokenizer, monkeypatch):
    def keys(texts, seed):
        return [json.dumps(text.key) for text in plant(texts, tokenizer, seed=seed)]

    shorter, longer = stretches(2), stretches(2, length=401)
    same = [Text(text.tokens.copy(), dict(text.key)) for text in shorter]
    known = keys(shorter, 0)
    assert keys(same, 0) == known
    monkeypatch.setattr(prompts, "NEEDLE", "The key is {key}.\n")
    distinct = {*known, *keys(shorter, 1), *keys(longer, 0), *keys(shorter, 0)}
    assert len(distinct) == 4 * 2
    # and no stretch without a needle is mistaken for one with it
    assert {"kind": "needle"}.items() <= json.loads(known[0]).items()


def test_a_document_shorter_than_the_prompt_is_refused(tokenizer):
    with pytest.raises(UserError, match="length 200 is too short"):
        plant(stretches(1, length=200), tokenizer, seed=0)


def test_the_loss_is_that_of_transformers_on_the_answers_alone(llama, tokenizer, tmp_path):
    shape = geometry(llama, 64)
    factors = closed_form("yarn", shape, 512)
    texts = plant(stretches(2), tokenizer, seed=3)
    pool = InProcess(Scorer(tmp_path, "float32", full_attention=False, chunk_length=128).open())
    pool.worker.model = llama
    objective = Objective(pool, ScoreMemory(tmp_path, {}), texts)
    losses = [
        score.loss for score in objective.scores([objective.unit(factors, d) for d in (0, 1)])
    ]
    install(llama, shape).use(factors)
    for text, loss in zip(texts, losses, strict=True):
        tokens = torch.from_numpy(text.tokens)[None]
        labels = tokens.clone()
        labels[0, :-8] = -100
        with torch.no_grad():
            assert loss == pytest.approx(float(llama(tokens, labels=labels).loss), rel=REORDERED)


# Stages -------------------------------------------------------------------------------------------


@pytest.fixture
def stage(llama, tokenizer, tmp_path):
    """Return a function that runs a stage under all ingredients and gives its folder."""
    llama.save_pretrained(tmp_path / "model")
    tuned = closed_form("linear", geometry(llama, 64), 512).model_copy(
        update={"attention_scale": 1.25}
    )
    tuned.save(tmp_path / "model" / "factors.json")
    encoder = character_tokenizer()
    documents = [NamedText(f"book {n}", f"{n} little words " * 60) for n in range(2)]
    (tmp_path / "tokens").mkdir()
    write_store(tmp_path / "tokens", documents, encoder, 97)
    inputs = {
        role: Input(tmp_path / name, name)
        for role, name in {
            "model": "model",
            "tokens": "tokens",
            "tokenizer": tokenizer.name,
            "factors-0": "model",
        }.items()
    }
    evolution = {**SMALL["evolution"], "population_size": 4, "num_iterations": 1, "num_parents": 3}
    common = ALL_OF_LONGROPE2 | {
        **{"algorithm": {"name": "evolution", **evolution}, "num_documents": 2},
        **{"start_tokens": [0, 2, 8], "seed": SEED, "dtype": "float32", "bos": "never"},
    }

    def ran(module, **settings):
        out = tmp_path / "out"
        out.mkdir()
        kind = module.__name__.rpartition(".")[2]
        runtime = Runtime(tmp_path, tmp_path, scoring_code="code")
        module.run(node_settings(kind, common | settings), inputs, out, runtime)
        return out

    return ran


def of_needles(folder, factors):
    """Return the perplexity of factors on the needles that a stage is to plant."""
    length = factors.target_length
    store = TokenStore(folder / "tokens")
    texts = draw_texts(store, length=length, count=2, seed=SEED, what="documents")
    planted = plant(texts, folder / "characters", seed=SEED)
    pool = InProcess(
        Scorer(folder / "model", "float32", full_attention=False, chunk_length=4096).open()
    )
    return Objective(pool, ScoreMemory(folder / "apart", {}), planted).perplexity(factors)


def test_a_search_runs_with_all_ingredients_on_a_tuned_model(stage):
    settings = {"source_length": 128, "target_length": 512, "attention_scale": 1.1}
    out = stage(search, **settings)
    factors = RopeFactors.read(out / "factors.json")
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    # 4 and 8; the first of the search is the closed forms, at 4 times 8 and the rule's scale
    assert len(lines) == 12
    assert (lines[0]["factors"][-1], lines[0]["attention_scale"]) == (32.0, 1.1)
    assert 32.0 <= factors.factors[-1] <= 64.0 and factors.factors[0] == 8.0
    assert factors.provenance["objective"] == "needle"
    assert factors.provenance["perplexity"] == pytest.approx(of_needles(out.parent, factors))


def test_readjustment_bounds_factors_by_its_length_and_by_the_tuned_scale(stage):
    out = stage(readjust, lengths=[384], num_attention_scales=1)
    lines = [json.loads(line) for line in (out / "history-384.jsonl").read_text().splitlines()]
    factors = np.array([line["factors"] for line in lines])
    # 384 over 64 tokens are 6; the tuned factors are 8, and twice that bounds all
    assert factors[:, -1].min() == 6.0 and 8.0 in factors[:, -1] and factors.max() <= 16.0
    assert lines[0]["attention_scale"] == 1.25
    entry = FactorTable.read(out / "factor_table.json").at(384)
    assert {"num_documents": 2, "num_texts": 2}.items() <= entry.provenance.items()
    assert entry.provenance["perplexity"] == pytest.approx(of_needles(out.parent, entry))


def test_more_needles_than_documents_are_all_planted_and_counted_as_what_they_are(stage):
    out = stage(readjust, lengths=[384], num_attention_scales=1, num_documents=5)
    lines = [json.loads(line) for line in (out / "history-384.jsonl").read_text().splitlines()]
    assert lines[0]["documents"] == [0, 1, 2, 3, 4]
    entry = FactorTable.read(out / "factor_table.json").at(384)
    assert {"num_documents": 2, "num_texts": 5}.items() <= entry.provenance.items()
